"""The direction loss of Streamlined Knowledge Distillation (2026)."""

from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `skd_direction`."""
    return [
        Component(
            name="skd_direction",
            factory="kd_plugin_skd.loss:SKDDirectionLoss",
            schema="schema.json",
            examples="kd_plugin_skd.examples:EXAMPLES",
            summary="Mahalanobis distance between the matrices of cosines between all samples' logits",
            paper=Paper(
                "Streamlined Knowledge Distillation", 2026, "https://cvpr.thecvf.com/virtual/2026/poster/39253"
            ),
            inputs=(
                Input("student", role=Role.POSITIONS, default="student", help="logits (B, ...), flattened; B from 2"),
                Input("teacher", role=Role.POSITIONS, default="teacher", help="logits (B, ...)"),
            ),
        )
    ]
