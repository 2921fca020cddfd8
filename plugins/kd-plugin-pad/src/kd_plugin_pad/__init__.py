"""Prime-aware adaptive distillation (Zhang et al., 2020)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper("Prime-Aware Adaptive Distillation", 2020, "https://arxiv.org/abs/2008.01458")


@hookimpl
def losses() -> list[Component]:
    """Offer `pad_l2`."""
    return [
        Component(
            name="pad_l2",
            factory="kd_plugin_pad.loss:PADL2Loss",
            schema="schemas/pad_l2.json",
            examples="kd_plugin_pad.examples:EXAMPLES",
            summary="squared distance of embeddings, each number weighted by how uncertain the student is of it",
            paper=PAPER,
            inputs=(
                Input("student", help="embedding (B, ...), flattened"),
                Input("teacher", help="embedding of as many numbers"),
                Input("log_variance", help="the logarithm of a variance for each number, from pad_variance"),
            ),
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `pad_variance`."""
    return [
        Component(
            name="pad_variance",
            factory="kd_plugin_pad.variance:PADVariance",
            schema="schemas/pad_variance.json",
            examples="kd_plugin_pad.examples:EXAMPLES",
            summary="predicts the logarithm of a variance for each number of the embedding in `like`",
            paper=PAPER,
            inputs=(Input("x", help="the student's features (B, ...), flattened"),),
        )
    ]
