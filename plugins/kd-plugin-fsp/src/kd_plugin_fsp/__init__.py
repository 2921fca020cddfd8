"""Distillation of the flow between layers (Yim et al., 2017)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `fsp`."""
    return [
        Component(
            name="fsp",
            factory="kd_plugin_fsp.loss:FSPLoss",
            schema="schema.json",
            summary="difference of the Gram matrices between the feature maps of two layers",
            examples="kd_plugin_fsp.examples:EXAMPLES",
            paper=Paper(
                "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
                2017,
                "https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
            ),
            inputs=(
                Input("student_first", help="feature map (B, C1, *spatial) at the start of the flow"),
                Input("student_second", help="feature map (B, C2, *spatial) at its end"),
                Input("teacher_first", help="the teacher's (B, C1, *spatial)"),
                Input("teacher_second", help="the teacher's (B, C2, *spatial)"),
            ),
        )
    ]
