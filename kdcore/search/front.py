"""Which trials are good: the front, the best by weights, and those to distil in full."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from kdcore.config.search_config import FinalConfig
from kdcore.search.objectives import Constraint, Objective, feasible, missing, scores
from kdcore.search.pareto import find_pareto_front, knee_point
from kdcore.search.record import State, Trial


def eligible(
    trials: Iterable[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> list[Trial]:
    """Return the trials that ran to their end, have a number for every objective and break no constraint, by number.

    They are given as they ended, which is another order where several run at once.
    """
    return [
        trial
        for trial in sorted(trials, key=lambda each: each.number)
        if trial.state is State.COMPLETE
        and not missing(objectives, constraints, trial.metrics)
        and all(math.isfinite(trial.metrics[each.metric]) for each in objectives)
        and feasible(constraints, trial.metrics)
    ]


def front_of(
    trials: Iterable[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> list[Trial]:
    """Return the eligible trials that no other one dominates, by number; with one objective the best one."""
    found = eligible(trials, objectives, constraints)
    points = [[trial.metrics[each.metric] for each in objectives] for trial in found]
    return [found[index] for index in find_pareto_front(points, [each.maximize for each in objectives])]


def ranked(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Return trials by the weighted mean of their objectives, the best first; of equal ones the earlier first."""
    values = scores(objectives, [trial.metrics for trial in trials])
    order = sorted(range(len(trials)), key=lambda index: -values[index])
    return [trials[index] for index in order]


def chosen(config: FinalConfig, front: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Return the trials of a front that are distilled in full: its best, its knee, or its best few."""
    if not front:
        return []
    if config.choose == "best":
        return ranked(front, objectives)[:1]
    if config.choose == "knee":
        points = [[trial.metrics[each.metric] for each in objectives] for trial in front]
        weights = [each.weight for each in objectives]
        return [front[knee_point(points, [each.maximize for each in objectives], weights)]]
    return ranked(front, objectives)[: config.at_most]
