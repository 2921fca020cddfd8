"""Probabilistic knowledge transfer (Passalis and Tefas, 2018)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `pkt`."""
    return [
        Component(
            name="pkt",
            factory="kd_plugin_pkt.loss:PKTLoss",
            schema="schema.json",
            summary="divergence between the probabilities of choosing each sample of a batch as a neighbour",
            examples="kd_plugin_pkt.examples:EXAMPLES",
            paper=Paper(
                "Learning Deep Representations with Probabilistic Knowledge Transfer",
                2018,
                "https://arxiv.org/abs/1803.10837",
            ),
            inputs=(
                Input("student", help="features (B, ...), flattened; two samples or more"),
                Input("teacher", help="features (B, ...) of the same samples, of any size"),
            ),
        )
    ]
