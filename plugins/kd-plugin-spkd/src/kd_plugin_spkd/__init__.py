"""Similarity-preserving knowledge distillation (Tung and Mori, 2019)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `spkd`."""
    return [
        Component(
            name="spkd",
            factory="kd_plugin_spkd.loss:SPKDLoss",
            schema="schema.json",
            summary="squared difference of the similarities among the samples of a batch",
            examples="kd_plugin_spkd.examples:EXAMPLES",
            paper=Paper("Similarity-Preserving Knowledge Distillation", 2019, "https://arxiv.org/abs/1907.09682"),
            inputs=(
                Input("student", help="features (B, ...), flattened; two samples or more"),
                Input("teacher", help="features (B, ...) of the same samples, of any size"),
            ),
        )
    ]
