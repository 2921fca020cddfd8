"""Relational knowledge distillation (Park et al., 2019)."""

from kd_plugin_rkd import checks
from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `rkd`."""
    return [
        Component(
            name="rkd",
            factory="kd_plugin_rkd.loss:RKDLoss",
            schema="schema.json",
            summary="difference between the distances and angles among the samples of a batch",
            examples="kd_plugin_rkd.examples:EXAMPLES",
            check=checks.rkd,
            paper=Paper("Relational Knowledge Distillation", 2019, "https://arxiv.org/abs/1904.05068"),
            inputs=(
                Input("student", help="features (B, ...), flattened; two samples or more"),
                Input("teacher", help="features (B, ...) of the same samples, of any size"),
            ),
        )
    ]
