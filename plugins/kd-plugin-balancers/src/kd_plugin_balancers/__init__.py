"""Balancers that turn the named terms of a stage into one scalar."""

from kd_plugin_balancers.checks import check_schedule, check_static, check_uncertainty, check_weighted_sum
from kdcore.component import Component, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def balancers() -> list[Component]:
    """Offer `weighted_sum`, `static`, `uncertainty`, `dwa` and `schedule`."""
    return [
        Component(
            name="weighted_sum",
            factory="kd_plugin_balancers.weighted_sum:WeightedSumBalancer",
            schema="schema.json#/$defs/weighted_sum",
            summary="the sum of the terms, each times its weight",
            examples="kd_plugin_balancers.examples:EXAMPLES",
            check=check_weighted_sum,
        ),
        Component(
            name="static",
            factory="kd_plugin_balancers.static:StaticBalancer",
            schema="schema.json#/$defs/static",
            summary="fixed shares for the distillation terms; the task term gets the rest",
            examples="kd_plugin_balancers.examples:EXAMPLES",
            check=check_static,
        ),
        Component(
            name="uncertainty",
            factory="kd_plugin_balancers.uncertainty:UncertaintyBalancer",
            schema="schema.json#/$defs/uncertainty",
            summary="learns one variance per term and divides the term by it",
            examples="kd_plugin_balancers.examples:EXAMPLES",
            paper=Paper(
                "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
                2018,
                "https://arxiv.org/abs/1705.07115",
            ),
            check=check_uncertainty,
        ),
        Component(
            name="dwa",
            factory="kd_plugin_balancers.dwa:DWABalancer",
            schema="schema.json#/$defs/dwa",
            summary="gives more weight to terms that fell least over the last two epochs",
            examples="kd_plugin_balancers.examples:EXAMPLES",
            paper=Paper("End-to-End Multi-Task Learning with Attention", 2019, "https://arxiv.org/abs/1803.10704"),
        ),
        Component(
            name="schedule",
            factory="kd_plugin_balancers.schedule:ScheduleBalancer",
            schema="schema.json#/$defs/schedule",
            summary="weights that change with the progress of the stage",
            examples="kd_plugin_balancers.examples:EXAMPLES",
            check=check_schedule,
        ),
    ]
