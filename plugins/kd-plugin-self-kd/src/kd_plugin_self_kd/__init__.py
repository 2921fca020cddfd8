"""Self-distillation between the exits of one network (Zhang et al., 2019)."""

from kd_plugin_self_kd import checks
from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `self_kd`."""
    return [
        Component(
            name="self_kd",
            factory="kd_plugin_self_kd.loss:SelfKDLoss",
            schema="schema.json",
            examples="kd_plugin_self_kd.examples:EXAMPLES",
            summary="a shallow exit of a network learns from a deeper one, logits or features",
            paper=Paper(
                "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
                2019,
                "https://arxiv.org/abs/1905.08094",
            ),
            inputs=(
                Input(
                    "student",
                    role=Role.POSITIONS,
                    help="the shallow exit: logits (B, ..., C), for l2 features (B, ...)",
                ),
                Input("teacher", role=Role.POSITIONS, help="the deeper exit, of the same shape; detached"),
            ),
            check=checks.self_kd,
        )
    ]
