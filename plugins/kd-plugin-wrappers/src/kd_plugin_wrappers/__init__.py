"""Wrappers that change how a loss is applied: per pair, per key, masked, shifted."""

from kd_plugin_wrappers.checks import check_causal, check_dict, check_masked, check_pairs
from kdcore.component import Component, Input, Role
from kdcore.hookspecs import hookimpl


@hookimpl
def wrappers() -> list[Component]:
    """Offer `simple`, `dict`, `pairs`, `masked` and `causal`."""
    return [
        Component(
            name="simple",
            factory="kd_plugin_wrappers.simple:SimpleWrapper",
            schema="schema.json#/$defs/simple",
            summary="calls the loss with its inputs as they are bound",
            examples="kd_plugin_wrappers.examples:EXAMPLES",
        ),
        Component(
            name="dict",
            factory="kd_plugin_wrappers.keyed:DictWrapper",
            schema="schema.json#/$defs/dict",
            summary="one loss per key of inputs that are dicts; their weighted sum",
            examples="kd_plugin_wrappers.examples:EXAMPLES",
            check=check_dict,
        ),
        Component(
            name="pairs",
            factory="kd_plugin_wrappers.pairs:PairsWrapper",
            schema="schema.json#/$defs/pairs",
            summary="one loss per pair of inputs that are lists; their weighted sum or mean",
            examples="kd_plugin_wrappers.examples:EXAMPLES",
            takes_lists=True,
            check=check_pairs,
        ),
        Component(
            name="masked",
            factory="kd_plugin_wrappers.masked:MaskedWrapper",
            schema="schema.json#/$defs/masked",
            summary="drops positions by a mask or an ignored label before the loss",
            examples="kd_plugin_wrappers.examples:EXAMPLES",
            inputs=(
                Input(
                    "mask",
                    required=False,
                    role=Role.LABELS,
                    help="(*positions), boolean or 0/1 integers, true where a position counts",
                ),
            ),
            check=check_masked,
        ),
        Component(
            name="causal",
            factory="kd_plugin_wrappers.causal:CausalWrapper",
            schema="schema.json#/$defs/causal",
            summary="shifts positions against labels by one, for models that predict the next token",
            examples="kd_plugin_wrappers.examples:EXAMPLES",
            shift=1,
            check=check_causal,
        ),
    ]
