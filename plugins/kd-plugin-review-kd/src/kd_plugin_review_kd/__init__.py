"""Distillation by knowledge review (Chen et al., 2021)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper("Distilling Knowledge via Knowledge Review", 2021, "https://arxiv.org/abs/2104.09044")


@hookimpl
def losses() -> list[Component]:
    """Offer `hierarchical_context`."""
    return [
        Component(
            name="hierarchical_context",
            factory="kd_plugin_review_kd.loss:HierarchicalContextLoss",
            schema="schemas/hierarchical_context.json",
            examples="kd_plugin_review_kd.examples:EXAMPLES",
            summary="squared distance of two feature maps, at full size and pooled to smaller ones",
            paper=PAPER,
            inputs=(
                Input("student", help="feature map (B, C, H, W), as review_fusion makes it, or features (B, C)"),
                Input("teacher", help="the same of the teacher"),
            ),
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `review_fusion`."""
    return [
        Component(
            name="review_fusion",
            factory="kd_plugin_review_kd.fusion:ReviewFusion",
            schema="schemas/review_fusion.json",
            examples="kd_plugin_review_kd.examples:EXAMPLES",
            summary="from the deepest of the student's layers to the first, each joined with those behind it",
            paper=PAPER,
            inputs=(
                Input("student", list=True, help="feature maps (B, C, H, W) or (B, C), the first layer's first"),
                Input("teacher", required=False, list=True, help="as many; only their shapes are used"),
            ),
        )
    ]
