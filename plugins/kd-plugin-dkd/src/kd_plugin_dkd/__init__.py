"""Decoupled knowledge distillation (Zhao et al., 2022)."""

from kd_plugin_dkd import checks
from kdcore.component import Component, Input, Paper, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `dkd`."""
    return [
        Component(
            name="dkd",
            factory="kd_plugin_dkd.loss:DKDLoss",
            schema="schema.json",
            examples="kd_plugin_dkd.examples:EXAMPLES",
            check=checks.dkd,
            summary="how sure the teacher is of the target class, and how it ranks the others, weighted apart",
            paper=Paper("Decoupled Knowledge Distillation", 2022, "https://arxiv.org/abs/2203.08679"),
            inputs=(
                Input("student", role=Role.POSITIONS, default="student", help="logits (B, ..., C)"),
                Input("teacher", role=Role.POSITIONS, default="teacher", help="logits of the same shape"),
                Input("target", role=Role.LABELS, default="batch:target", help="class indices (B, ...)"),
            ),
        )
    ]
