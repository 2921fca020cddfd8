"""The overhaul of feature distillation (Heo et al., 2019)."""

from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `ofd`."""
    return [
        Component(
            name="ofd",
            factory="kd_plugin_ofd.loss:OFDLoss",
            schema="schema.json",
            examples="kd_plugin_ofd.examples:EXAMPLES",
            summary="squared distance of features before their ReLU, which leaves out what ReLU would",
            paper=Paper("A Comprehensive Overhaul of Feature Distillation", 2019, "https://arxiv.org/abs/1904.01866"),
            inputs=(
                Input("student", help="features (B, C, *spatial) before ReLU, in the teacher's channels"),
                Input("teacher", help="the teacher's output of its batch norm, of the same shape"),
                Input("norm", role=Role.MODULE, help="that batch norm itself, `teacher:...@module`"),
            ),
        )
    ]
