"""The general adapters: projections from one shape to another, and parameter-free shaping."""

from kd_plugin_adapters import checks
from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

FITNETS = Paper("FitNets: Hints for Thin Deep Nets", 2015, "https://arxiv.org/abs/1412.6550")
FEATURES = "features (..., D)"
MAPS = "feature maps (B, C, *spatial)"
EXAMPLES = "kd_plugin_adapters.examples:EXAMPLES"


@hookimpl
def adapters() -> list[Component]:
    """Offer the adapters that no single method owns."""
    return [
        Component(
            name="linear",
            factory="kd_plugin_adapters.linear:LinearAdapter",
            schema="schemas/linear.json",
            summary="a linear layer along the last dimension",
            inputs=(Input("x", help=FEATURES),),
        ),
        Component(
            name="mlp",
            factory="kd_plugin_adapters.linear:MLPAdapter",
            schema="schemas/mlp.json",
            summary="linear layers along the last dimension with an activation between them",
            inputs=(Input("x", help=FEATURES),),
        ),
        Component(
            name="conv1x1",
            factory="kd_plugin_adapters.conv:Conv1x1Adapter",
            schema="schemas/conv1x1.json",
            summary="a linear map of the channels at every place",
            inputs=(Input("x", help=MAPS),),
        ),
        Component(
            name="conv",
            factory="kd_plugin_adapters.conv:ConvAdapter",
            schema="schemas/conv.json",
            summary="convolution, batch normalisation and ReLU to the channels and size of `like`",
            paper=FITNETS,
            inputs=(Input("x", help=MAPS),),
            check=checks.conv,
        ),
        Component(
            name="feature_matcher",
            factory="kd_plugin_adapters.matcher:FeatureMatcher",
            schema="schemas/feature_matcher.json",
            summary="a linear map along the one dimension in which x and `like` differ",
            inputs=(Input("x", help="features (B, ...) that differ from `like` in one dimension"),),
        ),
        Component(
            name="flatten",
            factory="kd_plugin_adapters.shaping:Flatten",
            schema="schemas/flatten.json",
            summary="joins dimensions, by default all but the batch",
            inputs=(Input("x", help="a tensor of any shape"),),
        ),
        Component(
            name="pool",
            factory="kd_plugin_adapters.spatial:Pool",
            schema="schemas/pool.json",
            summary="adaptive pooling to a given spatial size or that of `like`",
            inputs=(Input("x", help=MAPS),),
            examples=EXAMPLES,
        ),
        Component(
            name="resize",
            factory="kd_plugin_adapters.spatial:Resize",
            schema="schemas/resize.json",
            summary="interpolation to a given spatial size or that of `like`",
            inputs=(Input("x", help=MAPS),),
            check=checks.resize,
            examples=EXAMPLES,
        ),
        Component(
            name="select",
            factory="kd_plugin_adapters.shaping:Select",
            schema="schemas/select.json",
            summary="one slice along a dimension, such as the first token",
            inputs=(Input("x", help="a tensor of any shape"),),
        ),
        Component(
            name="normalize",
            factory="kd_plugin_adapters.shaping:Normalize",
            schema="schemas/normalize.json",
            summary="vectors of length one",
            inputs=(Input("x", help=FEATURES),),
        ),
    ]
