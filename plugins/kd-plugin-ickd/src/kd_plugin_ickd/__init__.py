"""Inter-channel correlation distillation (Liu et al., 2021)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper(
    "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation",
    2021,
    "https://arxiv.org/abs/2202.03680",
)


@hookimpl
def losses() -> list[Component]:
    """Offer `ickd`."""
    return [
        Component(
            name="ickd",
            factory="kd_plugin_ickd.loss:ICKDLoss",
            schema="schemas/ickd.json",
            summary="squared difference of the correlations between the channels of a feature map",
            examples="kd_plugin_ickd.examples:EXAMPLES",
            paper=PAPER,
            inputs=(
                Input("student", help="feature map (B, C, *spatial)"),
                Input("teacher", help="feature map (B, C, *spatial) of as many channels, of any spatial size"),
            ),
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `ickd_embed`."""
    return [
        Component(
            name="ickd_embed",
            factory="kd_plugin_ickd.embed:ICKDEmbed",
            schema="schemas/ickd_embed.json",
            summary="a convolution and batch normalisation to the channels of `like`",
            examples="kd_plugin_ickd.examples:EXAMPLES",
            paper=PAPER,
            inputs=(Input("x", help="feature maps (B, C, H, W)"),),
        )
    ]
