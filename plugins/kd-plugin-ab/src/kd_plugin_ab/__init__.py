"""Transfer of activation boundaries (Heo et al., 2019)."""

from kdcore.component import Component, Input, Paper
from kdcore.hookspecs import hookimpl

PAPER = Paper(
    "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    2019,
    "https://arxiv.org/abs/1811.03233",
)


@hookimpl
def losses() -> list[Component]:
    """Offer `ab`."""
    return [
        Component(
            name="ab",
            factory="kd_plugin_ab.loss:ABLoss",
            schema="schemas/ab.json",
            summary="squared hinge that activates the student's neurons where the teacher's are active",
            examples="kd_plugin_ab.examples:EXAMPLES",
            paper=PAPER,
            inputs=(
                Input("student", help="responses (B, ...) before their activation: the output of a connector"),
                Input("teacher", help="responses of the same shape before their activation"),
            ),
        )
    ]


@hookimpl
def adapters() -> list[Component]:
    """Offer `ab_connector`."""
    return [
        Component(
            name="ab_connector",
            factory="kd_plugin_ab.connector:ABConnector",
            schema="schemas/ab_connector.json",
            summary="a 1 x 1 convolution and batch normalisation to the channels of `like`",
            examples="kd_plugin_ab.examples:EXAMPLES",
            paper=PAPER,
            inputs=(Input("x", help="feature maps (B, C, H, W)"),),
        )
    ]
