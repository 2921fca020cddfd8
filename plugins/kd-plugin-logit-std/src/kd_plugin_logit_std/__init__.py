"""Logit standardisation (Sun et al., 2024)."""

from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `logit_std_kd`."""
    return [
        Component(
            name="logit_std_kd",
            factory="kd_plugin_logit_std.loss:LogitStdKDLoss",
            schema="schema.json",
            examples="kd_plugin_logit_std.examples:EXAMPLES",
            summary="divergence of class distributions, each side's logits divided by their deviation first",
            paper=Paper("Logit Standardization in Knowledge Distillation", 2024, "https://arxiv.org/abs/2403.01427"),
            inputs=(
                Input("student", role=Role.POSITIONS, default="student", help="logits (B, ..., C)"),
                Input("teacher", role=Role.POSITIONS, default="teacher", help="logits of the same shape"),
            ),
        )
    ]
