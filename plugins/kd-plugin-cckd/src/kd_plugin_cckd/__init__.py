"""Correlation congruence for knowledge distillation (Peng et al., 2019)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper("Correlation Congruence for Knowledge Distillation", 2019, "https://arxiv.org/abs/1904.01802")


@hookimpl
def losses() -> list[Component]:
    """Offer `cckd`."""
    return [
        Component(
            name="cckd",
            factory="kd_plugin_cckd.loss:CCKDLoss",
            schema="schemas/cckd.json",
            summary="squared difference of the kernel correlations among the samples of a batch",
            examples="kd_plugin_cckd.examples:EXAMPLES",
            paper=PAPER,
            inputs=(
                Input("student", help="embeddings (B, ...), flattened; two samples or more"),
                Input("teacher", help="embeddings (B, ...) of the same samples, of any size"),
            ),
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `cckd_head`."""
    return [
        Component(
            name="cckd_head",
            factory="kd_plugin_cckd.head:CCKDHead",
            schema="schemas/cckd_head.json",
            summary="a linear layer from flattened features to an embedding",
            examples="kd_plugin_cckd.examples:EXAMPLES",
            paper=PAPER,
            inputs=(Input("x", help="features (B, ...), flattened"),),
        )
    ]
