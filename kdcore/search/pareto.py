"""Pareto fronts: which points no other point beats, and how much of the space they dominate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def find_pareto_front(points: ArrayLike, maximize: bool | Sequence[bool] = True) -> list[int]:
    """Return the indices of the points that no other point dominates, ascending.

    A point dominates another if it is at least as good in every metric and better in one. Of equal
    points the first stands for all. A point with NaN is never in the front and hides no other;
    infinite values are compared like any other.

    Two metrics cost O(n log n) (a sweep over the points in order of the first metric); more cost
    O(n f) with f points in the front.

    Arguments:
        points: [points, metrics] numbers: nested lists, an array or a CPU tensor.
        maximize: whether more is better, for all metrics or one by one.

    Raises:
        ValueError: `points` is not a table, or `maximize` has another number of metrics.
    """
    costs = _costs(points, maximize)
    sound = np.flatnonzero(~np.isnan(costs).any(axis=1))
    if not len(sound):
        return []
    # In lexicographic order, earlier points first among equals, no point is dominated by a later one.
    keys = [sound, *(costs[sound, column] for column in reversed(range(costs.shape[1])))]
    order = sound[np.lexsort(keys)]
    kept = _sweep(costs[order]) if costs.shape[1] <= 2 else _filter(costs[order])
    return [int(index) for index in np.sort(order[kept])]


def hypervolume(points: ArrayLike, reference: Sequence[float], maximize: bool | Sequence[bool] = True) -> float:
    """Return the volume of what `points` dominate, up to `reference`.

    Exact, by slicing along the last metric; meant for fronts of up to some hundred points and four
    metrics. Points that are not better than the reference in every metric add nothing.

    Arguments:
        points: [points, metrics] numbers.
        reference: the worst values that count, one for each metric.
        maximize: whether more is better, for all metrics or one by one.

    Raises:
        ValueError: shapes that do not fit, or a reference that is not finite.
    """
    costs = _costs(points, maximize)
    ends = _costs([list(reference)], maximize)[0]
    if len(costs) and costs.shape[1] != len(ends):
        raise ValueError(f"the reference has {len(ends)} metrics, the points have {costs.shape[1]}")
    if not np.isfinite(ends).all():
        raise ValueError(f"the reference must be finite, found {list(reference)}")
    costs = costs[(costs < ends).all(axis=1)] if len(costs) else costs
    front = find_pareto_front(costs, maximize=False) if len(costs) else []
    return _volume(costs[front], ends) if front else 0.0


def knee_point(
    points: ArrayLike, maximize: bool | Sequence[bool] = True, weights: Sequence[float] | None = None
) -> int:
    """Return the index of the point nearest to the ideal one: the best value of every metric at once.

    Each metric is scaled to 0 for the best and 1 for the worst value among `points`, which should be
    a front; distances are Euclidean, after `weights`. The first of equally near points is taken.

    Raises:
        ValueError: there is no point with finite values, or shapes do not fit.
    """
    costs = _costs(points, maximize)
    sound = np.flatnonzero(np.isfinite(costs).all(axis=1))
    if not len(sound):
        raise ValueError("there is no point with finite values")
    low, high = costs[sound].min(axis=0), costs[sound].max(axis=0)
    scaled = (costs[sound] - low) / np.where(high > low, high - low, 1.0)
    if weights is not None:
        if len(weights) != costs.shape[1]:
            raise ValueError(f"there are {len(weights)} weights for {costs.shape[1]} metrics")
        scaled = scaled * np.asarray(weights, dtype=np.float64)
    return int(sound[np.argmin(np.square(scaled).sum(axis=1))])


def _costs(points: Any, maximize: bool | Sequence[bool]) -> Array:
    """Return the points as numbers of which less is better."""
    table = np.asarray(points, dtype=np.float64)
    if table.ndim == 1 and table.shape[0] == 0:
        return np.empty((0, 1 if isinstance(maximize, bool) else len(maximize)))
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"points must be a table of points by metrics, found the shape {list(table.shape)}")
    flags = [maximize] * table.shape[1] if isinstance(maximize, bool) else [bool(flag) for flag in maximize]
    if len(flags) != table.shape[1]:
        raise ValueError(f"maximize says {len(flags)} metrics, the points have {table.shape[1]}")
    # Adding zero makes -0.0 and 0.0 one number to every comparison of bytes.
    return np.where(flags, -table, table) + 0.0


def _sweep(ordered: Array) -> NDArray[np.bool_]:
    """One or two metrics: in order of the first, the second must beat all before."""
    last = ordered[:, -1]
    best = np.minimum.accumulate(last)
    kept = np.ones(len(ordered), dtype=np.bool_)
    kept[1:] = last[1:] < best[:-1]
    return kept


def _filter(ordered: Array) -> NDArray[np.bool_]:
    """Any number of metrics: each point of the front strikes out what it dominates or equals among the rest."""
    kept = np.zeros(len(ordered), dtype=np.bool_)
    # Points with a small sum strike out most of the others; a stable order keeps the first of equals first.
    ranked = np.argsort(_rank_sums(ordered), kind="stable")
    rest, alive = ordered[ranked], ranked
    while len(alive):
        kept[alive[0]] = True
        survives = (rest < rest[0]).any(axis=1)
        rest, alive = rest[survives], alive[survives]
    return kept


def _rank_sums(ordered: Array) -> NDArray[np.int64]:
    """Return sums of ranks, so that a dominating point comes before all it dominates, whatever the scales."""
    total = np.zeros(len(ordered), dtype=np.int64)
    for column in ordered.T:
        total += np.unique(column, return_inverse=True)[1]
    return total


def _volume(front: Array, ends: Array) -> float:
    if front.shape[1] == 1:
        return float(ends[0] - front[:, 0].min())
    if front.shape[1] == 2:
        ordered = front[np.argsort(front[:, 0])]
        ceilings = np.concatenate([ends[1:], ordered[:-1, 1]])
        return float(((ends[0] - ordered[:, 0]) * (ceilings - ordered[:, 1])).sum())
    ordered = front[np.argsort(front[:, -1], kind="stable")]
    depths = np.diff(np.append(ordered[:, -1], ends[-1]))
    total = 0.0
    for count, depth in enumerate(depths, start=1):
        if depth > 0:
            slab = ordered[:count, :-1]
            total += float(depth) * _volume(slab[find_pareto_front(slab, maximize=False)], ends[:-1])
    return total
