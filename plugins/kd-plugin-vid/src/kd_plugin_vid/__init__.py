"""Variational information distillation (Ahn et al., 2019)."""

from kd_plugin_vid.checks import check_regressor
from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper("Variational Information Distillation for Knowledge Transfer", 2019, "https://arxiv.org/abs/1904.05835")


@hookimpl
def losses() -> list[Component]:
    """Offer `vid`."""
    return [
        Component(
            name="vid",
            factory="kd_plugin_vid.loss:VIDLoss",
            schema="schemas/vid.json",
            summary="negative log-likelihood of the teacher's features under a Gaussian that the student predicts",
            examples="kd_plugin_vid.examples:EXAMPLES",
            paper=PAPER,
            inputs=(
                Input("mean", help="predicted features (B, C, *spatial): `#mean` of a regressor"),
                Input("variance", help="positive, of that shape or with sizes of 1: `#variance` of a regressor"),
                Input("teacher", help="features of the shape of `mean`"),
            ),
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `vid_regressor`."""
    return [
        Component(
            name="vid_regressor",
            factory="kd_plugin_vid.regressor:VIDRegressor",
            schema="schemas/vid_regressor.json",
            summary="1 x 1 convolutions that predict the features of `like`, and a learned variance per channel",
            check=check_regressor,
            examples="kd_plugin_vid.examples:EXAMPLES",
            paper=PAPER,
            inputs=(Input("x", help="feature maps (B, C, H, W)"),),
        )
    ]
