"""Attention transfer (Zagoruyko and Komodakis, 2017)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `at`."""
    return [
        Component(
            name="at",
            factory="kd_plugin_at.loss:ATLoss",
            schema="schema.json",
            summary="distance between the spatial attention maps of two feature maps",
            examples="kd_plugin_at.examples:EXAMPLES",
            paper=Paper(
                "Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks "
                "via Attention Transfer",
                2017,
                "https://arxiv.org/abs/1612.03928",
            ),
            inputs=(
                Input("student", help="feature map (B, C, *spatial)"),
                Input("teacher", help="feature map (B, C', *spatial), of the same spatial size"),
            ),
        )
    ]
