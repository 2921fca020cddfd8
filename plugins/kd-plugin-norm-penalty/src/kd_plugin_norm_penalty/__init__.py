"""A penalty on the norm of a tensor."""

from kdcore.component import Component, Input
from kdcore.hookspecs import hookimpl


@hookimpl
def losses() -> list[Component]:
    """Offer `norm_penalty`."""
    return [
        Component(
            name="norm_penalty",
            factory="kd_plugin_norm_penalty.loss:NormPenaltyLoss",
            schema="schema.json",
            examples="kd_plugin_norm_penalty.examples:EXAMPLES",
            summary="the p-norm of a tensor, for sparse or small activations",
            inputs=(Input("input", help="a tensor of any shape"),),
        )
    ]
