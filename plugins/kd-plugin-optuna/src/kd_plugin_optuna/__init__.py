"""Searchers on Optuna: a Gaussian process, TPE and NSGA-II."""

from kdcore.component import Component, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def searchers() -> list[Component]:
    """Offer `bayesian`, `tpe` and `nsga2`."""
    return [
        Component(
            name="bayesian",
            factory="kd_plugin_optuna.bayesian:BayesianSearcher",
            schema="schema.json#/$defs/bayesian",
            summary="the point that a Gaussian process expects most of, for one objective or several",
            shared_storage=True,
            examples="kd_plugin_optuna.examples:EXAMPLES",
            paper=Paper(
                "Differentiable Expected Hypervolume Improvement for Parallel Multi-Objective Bayesian Optimization",
                2020,
                "https://arxiv.org/abs/2006.05078",
            ),
        ),
        Component(
            name="tpe",
            factory="kd_plugin_optuna.tpe:TPESearcher",
            schema="schema.json#/$defs/tpe",
            summary="points that resemble the good ones more than the others, for one objective or several",
            shared_storage=True,
            examples="kd_plugin_optuna.examples:EXAMPLES",
            paper=Paper(
                "Algorithms for Hyper-Parameter Optimization",
                2011,
                "https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization",
            ),
        ),
        Component(
            name="nsga2",
            factory="kd_plugin_optuna.nsga2:NSGA2Searcher",
            schema="schema.json#/$defs/nsga2",
            summary="generations of points, bred from those that no other beats; for hundreds of trials",
            shared_storage=True,
            examples="kd_plugin_optuna.examples:EXAMPLES",
            paper=Paper(
                "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
                2002,
                "https://doi.org/10.1109/4235.996017",
            ),
        ),
    ]
