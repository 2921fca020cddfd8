"""Masked generative distillation (Yang et al., 2022)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `mgd`."""
    return [
        Component(
            name="mgd",
            factory="kd_plugin_mgd.loss:MGDLoss",
            schema="schema.json",
            examples="kd_plugin_mgd.examples:EXAMPLES",
            summary="the teacher's feature map, generated from the student's with most of its positions masked",
            paper=Paper("Masked Generative Distillation", 2022, "https://arxiv.org/abs/2205.01529"),
            inputs=(
                Input("student", help="feature map (B, C, H, W)"),
                Input("teacher", help="feature map (B, C', H, W)"),
            ),
        )
    ]
