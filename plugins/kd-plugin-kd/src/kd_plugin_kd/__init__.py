"""Knowledge distillation on softened logits (Hinton et al., 2015)."""

from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `kd`."""
    return [
        Component(
            name="kd",
            factory="kd_plugin_kd.loss:KDLoss",
            schema="schema.json",
            summary="divergence between the softened class distributions of teacher and student",
            examples="kd_plugin_kd.examples:EXAMPLES",
            paper=Paper("Distilling the Knowledge in a Neural Network", 2015, "https://arxiv.org/abs/1503.02531"),
            inputs=(
                Input("student", role=Role.POSITIONS, default="student", help="logits (B, ..., C)"),
                Input("teacher", role=Role.POSITIONS, default="teacher", help="logits of the same shape"),
                Input("mask", required=False, role=Role.LABELS, help="(B, ...), true where a position counts"),
            ),
        )
    ]
