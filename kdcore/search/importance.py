"""How much each parameter of a space matters: the share of an objective's variance that it explains alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from kdcore.search.domain import Range
from kdcore.search.objectives import Objective
from kdcore.search.record import Trial
from kdcore.search.space import Space
from kdcore.search.values import token

# Trials in a group, at least, where a range is cut into groups.
_GROUP = 3
_MOST_GROUPS = 5


def importance(trials: Sequence[Trial], space: Space, objective: Objective) -> dict[str, float]:
    """Return for each parameter the share of the objective's variance between its values, largest first.

    One-way analysis of variance, with the correction of omega squared for groups that differ by chance:

        w2 = max(0, (SSB - (k - 1) MSW) / (SST + MSW)),    MSW = SSW / (n - k)

    SSB, SSW and SST are the sums of squares between groups, within groups and in all, of n trials in k groups.
    A group is a value of the parameter, or a fifth of a range's trials; a parameter that was not active counts
    as a value of its own. What parameters only do together is not seen. Hays, Statistics for Psychologists, 1963.

    Arguments:
        trials: those that ran to their end.
        space: whose parameters are judged.
        objective: what they are judged by.
    """
    known = [trial for trial in trials if math.isfinite(trial.metrics.get(objective.metric, math.nan))]
    found = {}
    for parameter in space:
        groups: dict[str, list[float]] = defaultdict(list)
        label = _labels([trial.point for trial in known], parameter.path, parameter.domain)
        for trial, each in zip(known, label, strict=True):
            groups[each].append(trial.metrics[objective.metric])
        share = _omega_squared(list(groups.values()))
        if share is not None:
            found[parameter.path] = share
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _labels(points: Sequence[Mapping[str, Any]], path: str, domain: object) -> list[str]:
    """Return the group of each point."""
    values = [point.get(path) for point in points]
    distinct = {token(value) for value in values}
    if not isinstance(domain, Range) or len(distinct) <= max(2, len(values) // _GROUP):
        return ["" if path not in point else token(point[path]) for point in points]
    count = max(2, min(_MOST_GROUPS, len(values) // _GROUP))
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    labels = ["" for _ in points]
    for rank, (_, place) in enumerate(order):
        labels[place] = str(rank * count // len(order))
    return labels


def _omega_squared(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the corrected share of variance between groups; None where there is nothing to compare."""
    count, total = len(groups), sum(map(len, groups))
    if count < 2 or total <= count:
        return None
    mean = math.fsum(value for group in groups for value in group) / total
    within = math.fsum((value - math.fsum(group) / len(group)) ** 2 for group in groups for value in group)
    overall = math.fsum((value - mean) ** 2 for group in groups for value in group)
    if overall <= 0:
        return None
    error = within / (total - count)
    return min(1.0, max(0.0, (overall - within - (count - 1) * error) / (overall + error)))
