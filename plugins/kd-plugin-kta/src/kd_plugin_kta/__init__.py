"""Knowledge translation and affinity, for dense prediction (He et al., 2019)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper("Knowledge Adaptation for Efficient Semantic Segmentation", 2019, "https://arxiv.org/abs/1903.04688")
MAPS = "feature maps (B, C, *spatial)"


@hookimpl
def losses() -> list[Component]:
    """Offer `kta` and `affinity`."""
    return [
        Component(
            name="kta",
            factory="kd_plugin_kta.loss:KTALoss",
            schema="schemas/kta.json",
            examples="kd_plugin_kta.examples:EXAMPLES",
            summary="distance of normalised features from what an auto-encoder makes of the teacher's",
            paper=PAPER,
            inputs=(
                Input("student", help="features (B, ...) after kta_adapter"),
                Input("teacher", help="the auto-encoder's code of the teacher's, of the same shape"),
            ),
            stages="second of two: the auto-encoder is trained first",
        ),
        Component(
            name="affinity",
            factory="kd_plugin_kta.affinity:AffinityLoss",
            schema="schemas/affinity.json",
            examples="kd_plugin_kta.examples:EXAMPLES",
            summary="distance of the matrices that say how alike any two positions of a feature map are",
            paper=PAPER,
            inputs=(
                Input("student", help=MAPS),
                Input("teacher", help="feature maps of the same spatial size"),
            ),
        ),
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `kta_adapter` and `affinity_adapter`."""
    return [
        Component(
            name="kta_adapter",
            factory="kd_plugin_kta.convolution:KTAAdapter",
            schema="schemas/kta_adapter.json",
            examples="kd_plugin_kta.examples:EXAMPLES",
            summary="convolution, batch normalisation and ReLU to the channels of `like`",
            paper=PAPER,
            inputs=(Input("x", help="feature maps (B, C, H, W)"),),
        ),
        Component(
            name="affinity_adapter",
            factory="kd_plugin_kta.convolution:AffinityAdapter",
            schema="schemas/affinity_adapter.json",
            examples="kd_plugin_kta.examples:EXAMPLES",
            summary="a convolution to the channels of `like`",
            paper=PAPER,
            inputs=(Input("x", help="feature maps (B, C, H, W)"),),
        ),
    ]
