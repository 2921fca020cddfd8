"""Pareto fronts and hypervolumes against definitions, and against what the original finds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.search.pareto import find_pareto_front, hypervolume, knee_point

NAN, INF = math.nan, math.inf

# Cases of Neural Compressor's find_pareto_front, without those where NaN makes it drop a valid point.
ORIGINAL = json.loads(Path(__file__).with_name("fronts.json").read_text(encoding="utf-8"))


def bounded(examples: int) -> settings:
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


def by_definition(points: list[list[float]], maximize: bool | list[bool] = True) -> list[int]:
    flags = [maximize] * 9 if isinstance(maximize, bool) else maximize
    costs = [[-value if up else value for value, up in zip(point, flags, strict=False)] for point in points]
    sound = [index for index, cost in enumerate(costs) if not any(map(math.isnan, cost))]

    def beaten(index: int) -> bool:
        own = costs[index]
        for other in sound:
            better_or_equal = all(a <= b for a, b in zip(costs[other], own, strict=True))
            if better_or_equal and (costs[other] != own or other < index):
                return True
        return False

    return [index for index in sound if not beaten(index)]


@pytest.mark.parametrize("case", ORIGINAL)
def test_fronts_of_the_original(case: dict[str, Any]) -> None:
    assert find_pareto_front(case["points"]) == case["front"]


NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 2.0, 2.5, -1.0, NAN, INF, -INF])
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=14)
)


@given(TABLES, st.lists(st.booleans(), min_size=4, max_size=4))
@bounded(200)
def test_fronts_are_as_defined(points: list[list[float]], flags: list[bool]) -> None:
    flags = flags[: len(points[0])]
    assert find_pareto_front(points) == by_definition(points)
    assert find_pareto_front(points, maximize=False) == by_definition(points, False)
    assert find_pareto_front(points, maximize=flags) == by_definition(points, flags)


def test_nan_never_hides_a_point() -> None:
    # The original returns [0].
    assert find_pareto_front([[NAN, 0.5], [0.1, 0.4], [0.9, 0.1]]) == [1, 2]
    assert find_pareto_front([[NAN, NAN], [NAN, 1.0]]) == []


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_points_may_be_lists_arrays_or_tensors(make: Any) -> None:
    assert find_pareto_front(make([[1.0, 1.0], [2.0, 2.0], [2.0, 2.0], [0.0, 3.0]])) == [1, 3]


@pytest.mark.parametrize("empty", [[], np.empty((0, 2))])
def test_no_points_have_no_front(empty: Any) -> None:
    assert find_pareto_front(empty) == []


@pytest.mark.parametrize(
    ("points", "maximize", "match"),
    [
        ([1.0, 2.0], True, r"points must be a table of points by metrics, found the shape \[2\]"),
        ([[], []], True, r"found the shape \[2, 0\]"),
        ([[1.0, 2.0]], [True], "maximize says 1 metrics, the points have 2"),
        ([[1.0], [1.0, 2.0]], True, "inhomogeneous"),
    ],
)
def test_what_is_no_table(points: Any, maximize: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        find_pareto_front(points, maximize)


@pytest.mark.parametrize("metrics", [2, 3])
def test_a_hundred_thousand_points(metrics: int) -> None:
    points = np.random.default_rng(0).random((100_000, metrics))
    front = find_pareto_front(points)
    assert front == sorted(front)
    assert by_definition(points[front].tolist()) == list(range(len(front)))
    # Each other point is dominated by one of the front.
    assert all((points[front] >= point).all(axis=1).any() for point in points[::997])


def test_a_front_of_a_hundred_thousand_points() -> None:
    first = np.linspace(0.0, 1.0, 100_000)
    assert find_pareto_front(np.stack([first, 1.0 - first], axis=1)) == list(range(100_000))


def by_cells(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume of all cells between coordinates of points that some point dominates."""
    edges = [np.unique([*points[:, axis], reference[axis]]) for axis in range(points.shape[1])]
    total = 0.0
    for corner in np.ndindex(*(len(edge) - 1 for edge in edges)):
        high = np.array([edge[index + 1] for edge, index in zip(edges, corner, strict=True)])
        low = np.array([edge[index] for edge, index in zip(edges, corner, strict=True)])
        if (low >= reference).all() and (points >= high).all(axis=1).any():
            total += float((high - low).prod())
    return total


@pytest.mark.parametrize("metrics", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_hypervolumes_are_sums_of_cells(metrics: int, seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 6, (6, metrics)).astype(float)
    reference = np.ones(metrics)
    expected = by_cells(points, reference)
    assert hypervolume(points, list(reference)) == pytest.approx(expected)
    assert hypervolume(-points, list(-reference), maximize=False) == pytest.approx(expected)
    flags = [axis % 2 == 0 for axis in range(metrics)]
    signs = np.where(flags, 1.0, -1.0)
    assert hypervolume(points * signs, list(reference * signs), maximize=flags) == pytest.approx(expected)


def test_hypervolumes_by_hand() -> None:
    assert hypervolume([[1.0, 3.0], [2.0, 2.0], [1.0, 1.0]], [0.0, 0.0]) == 3.0 + 2.0
    assert hypervolume([[0.9, 100.0], [0.5, 10.0]], [0.0, 200.0], [True, False]) == pytest.approx(0.9 * 100 + 0.5 * 90)
    assert hypervolume([], [0.0, 0.0]) == 0.0
    assert hypervolume([[NAN, 5.0], [-1.0, 9.0]], [0.0, 0.0]) == 0.0


def test_references_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="the reference has 3 metrics, the points have 2"):
        hypervolume([[1.0, 1.0]], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="the reference must be finite"):
        hypervolume([[1.0, 1.0]], [0.0, -INF])


def test_the_knee_is_nearest_to_the_best_of_everything() -> None:
    front = [[1.0, 0.0], [0.9, 0.8], [0.5, 0.95], [0.0, 1.0]]
    assert knee_point(front) == 1
    # Scales do not matter, weights do.
    assert knee_point([[first * 1000, second] for first, second in front]) == 1
    assert knee_point(front, weights=[10.0, 0.1]) == 0
    assert knee_point([[NAN, 1.0], [1.0, 1.0]]) == 1
    with pytest.raises(ValueError, match="no point with finite values"):
        knee_point([[NAN, 1.0]])
