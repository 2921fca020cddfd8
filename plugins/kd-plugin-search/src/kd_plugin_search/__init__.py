"""Searchers without a model of what they search: every point in order, or points drawn at random."""

from kd_plugin_search.checks import check_grid
from kdcore.component import Component, Paper
from kdcore.hookspecs import hookimpl


@hookimpl
def searchers() -> list[Component]:
    """Offer `grid` and `random`."""
    return [
        Component(
            name="grid",
            factory="kd_plugin_search.grid:GridSearcher",
            schema="schema.json#/$defs/grid",
            summary="every point of a finite space, in order",
            check=check_grid,
        ),
        Component(
            name="random",
            factory="kd_plugin_search.drawn:RandomSearcher",
            schema="schema.json#/$defs/random",
            summary="points drawn at random, none twice",
            paper=Paper(
                "Random Search for Hyper-Parameter Optimization",
                2012,
                "https://jmlr.org/papers/v13/bergstra12a.html",
            ),
        ),
    ]
