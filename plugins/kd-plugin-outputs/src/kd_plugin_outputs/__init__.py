"""Output extractors: what a model returned, and what of it is meant."""

from kd_plugin_outputs.checks import check_item
from kdcore.component import Component
from kdcore.hookspecs import hookimpl


@hookimpl
def output_extractors() -> list[Component]:
    """Offer `auto`, `item` and `model_losses`."""
    return [
        Component(
            name="auto",
            factory="kd_plugin_outputs.auto:AutoExtractor",
            schema="schema.json#/$defs/auto",
            summary="the tensor itself, .logits, a dict's logits or out, or the first tensor of a tuple",
            examples="kd_plugin_outputs.examples:EXAMPLES",
        ),
        Component(
            name="item",
            factory="kd_plugin_outputs.item:ItemExtractor",
            schema="schema.json#/$defs/item",
            summary="one entry of the output, by its key, attribute or index",
            examples="kd_plugin_outputs.examples:EXAMPLES",
            check=check_item,
        ),
        Component(
            name="model_losses",
            factory="kd_plugin_outputs.model_losses:ModelLossesExtractor",
            schema="schema.json#/$defs/model_losses",
            summary="the losses that the model itself returns: a dict of scalars, or .loss",
            examples="kd_plugin_outputs.examples:EXAMPLES",
        ),
    ]
