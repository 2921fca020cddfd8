"""Neuron selectivity transfer (Huang and Wang, 2017)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `nst`."""
    return [
        Component(
            name="nst",
            factory="kd_plugin_nst.loss:NSTLoss",
            schema="schema.json",
            summary="maximum mean discrepancy between the channels of two feature maps",
            examples="kd_plugin_nst.examples:EXAMPLES",
            paper=Paper(
                "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
                2017,
                "https://arxiv.org/abs/1707.01219",
            ),
            inputs=(
                Input("student", help="feature map (B, C, *spatial)"),
                Input("teacher", help="feature map (B, C', *spatial) of the same spatial size"),
            ),
        )
    ]
