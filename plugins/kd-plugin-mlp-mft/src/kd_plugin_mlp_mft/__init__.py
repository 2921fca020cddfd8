"""Minifinetuning: distillation towards a corrected teacher (Belcak et al., 2025)."""

from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `mft`."""
    return [
        Component(
            name="mft",
            factory="kd_plugin_mlp_mft.loss:MFTLoss",
            schema="schema.json",
            examples="kd_plugin_mlp_mft.examples:EXAMPLES",
            summary="divergence from the teacher's distribution, moved until the label leads by a margin",
            paper=Paper(
                "Minifinetuning: Low-Data Generation Domain Adaptation through Corrective Self-Distillation",
                2025,
                "https://arxiv.org/abs/2506.15702",
            ),
            inputs=(
                Input("student", role=Role.POSITIONS, default="student", help="logits (B, ..., C)"),
                Input("teacher", role=Role.POSITIONS, default="teacher", help="logits of the same shape"),
                Input("target", role=Role.LABELS, default="batch:target", help="class indices (B, ...)"),
            ),
        )
    ]
