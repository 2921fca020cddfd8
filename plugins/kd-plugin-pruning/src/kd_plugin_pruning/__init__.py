"""Pruning criteria: how much each weight, or each block of weights, matters."""

from kdcore.component import Component, Paper
from kdcore.hookspecs import hookimpl

_SNIP = Paper(
    "SNIP: Single-shot Network Pruning based on Connection Sensitivity", 2019, "https://arxiv.org/abs/1810.02340"
)


@hookimpl
def criteria() -> list[Component]:
    """Offer seven pruning criteria."""
    return [
        Component(
            name="magnitude",
            factory="kd_plugin_pruning.magnitude:MagnitudeCriterion",
            schema="schema.json#/$defs/magnitude",
            summary="the absolute value of the weight",
            paper=Paper(
                "Learning both Weights and Connections for Efficient Neural Networks",
                2015,
                "https://arxiv.org/abs/1506.02626",
            ),
            examples="kd_plugin_pruning.examples:EXAMPLES",
        ),
        Component(
            name="gradient",
            factory="kd_plugin_pruning.gradient:GradientCriterion",
            schema="schema.json#/$defs/gradient",
            summary="the absolute value of the latest gradient",
            examples="kd_plugin_pruning.examples:EXAMPLES",
        ),
        Component(
            name="snip",
            factory="kd_plugin_pruning.snip:SnipCriterion",
            schema="schema.json#/$defs/snip",
            summary="how much the loss depends on the weight being there, by the latest gradient",
            paper=_SNIP,
            examples="kd_plugin_pruning.examples:EXAMPLES",
        ),
        Component(
            name="snip_momentum",
            factory="kd_plugin_pruning.snip_momentum:SnipMomentumCriterion",
            schema="schema.json#/$defs/snip_momentum",
            summary="snip, summed over the steps so far with older ones fading",
            paper=_SNIP,
            examples="kd_plugin_pruning.examples:EXAMPLES",
        ),
        Component(
            name="snip_momentum_block",
            factory="kd_plugin_pruning.snip_momentum_block:SnipMomentumBlockCriterion",
            schema="schema.json#/$defs/snip_momentum_block",
            summary="the same for whole blocks: how much the loss depends on the block being there",
            paper=_SNIP,
            examples="kd_plugin_pruning.examples:EXAMPLES",
        ),
        Component(
            name="retrain_free",
            factory="kd_plugin_pruning.retrain_free:RetrainFreeCriterion",
            schema="schema.json#/$defs/retrain_free",
            summary="the diagonal Fisher information of each block's mask",
            paper=Paper(
                "A Fast Post-Training Pruning Framework for Transformers", 2022, "https://arxiv.org/abs/2204.09656"
            ),
            examples="kd_plugin_pruning.examples:EXAMPLES",
        ),
        Component(
            name="random",
            factory="kd_plugin_pruning.random:RandomCriterion",
            schema="schema.json#/$defs/random",
            summary="a fixed random order, to compare with",
            examples="kd_plugin_pruning.examples:EXAMPLES",
        ),
    ]
