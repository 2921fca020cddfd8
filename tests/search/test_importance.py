"""How much each parameter matters, against values by hand."""

from __future__ import annotations

import random

import pytest

from kdcore.search.importance import importance
from kdcore.search.objectives import Objective
from kdcore.search.record import State, Trial
from kdcore.search.space import Choices, Parameter, Range, Space

SPACE = Space([Parameter("a", Choices([1, 2])), Parameter("b", Choices([1, 2])), Parameter("x", Range(0.0, 1.0))])
OBJECTIVE = Objective("score", maximize=True)


def trials(rows: list[tuple[int, int, float, float]]) -> list[Trial]:
    return [
        Trial(number, {"a": a, "b": b, "x": x}, State.COMPLETE, {"score": score})
        for number, (a, b, x, score) in enumerate(rows)
    ]


def test_the_share_is_omega_squared() -> None:
    found = importance(trials([(1, 1, 0, 1.0), (1, 2, 0, 2.0), (2, 1, 0, 4.0), (2, 2, 0, 5.0)]), SPACE, OBJECTIVE)
    # a: SST = 10, SSB = 9, SSW = 1, MSW = 1 / 2, so (9 - 0.5) / (10 + 0.5). b: SSB = 1, MSW = 9 / 2, below 0.
    assert found == pytest.approx({"a": 8.5 / 10.5, "b": 0.0})
    assert list(found) == ["a", "b"]


def test_chance_explains_next_to_nothing() -> None:
    generator = random.Random(0)
    rows = [
        (generator.choice([1, 2]), generator.choice([1, 2]), generator.random(), generator.random()) for _ in range(300)
    ]
    assert all(share < 0.03 for share in importance(trials(rows), SPACE, OBJECTIVE).values())


def test_a_range_is_cut_into_groups() -> None:
    generator = random.Random(1)
    draws = [generator.random() for _ in range(60)]
    found = importance(trials([(1, 1, x, x) for x in draws]), SPACE, OBJECTIVE)
    # Fifths of a uniform variable hold 1 / 25 of its variance.
    assert found["x"] == pytest.approx(0.96, abs=0.02)


def test_a_parameter_that_was_not_active_is_a_group() -> None:
    points = [
        ({"a": 1}, 0.0),
        ({"a": 1}, 0.0),
        ({"a": 1, "b": 1}, 1.0),
        ({"a": 1, "b": 2}, 1.0),
        ({"a": 1, "b": 1}, 1.0),
    ]
    found = importance(
        [Trial(number, point, State.COMPLETE, {"score": score}) for number, (point, score) in enumerate(points)],
        SPACE,
        OBJECTIVE,
    )
    assert found["b"] == pytest.approx(1.0)


@pytest.mark.parametrize("rows", [[], [(1, 1, 0.0, 1.0)], [(1, 1, 0.0, 1.0), (2, 2, 1.0, 1.0)]])
def test_nothing_is_said_where_there_is_nothing_to_compare(rows: list[tuple[int, int, float, float]]) -> None:
    assert importance(trials(rows), SPACE, OBJECTIVE) == {}
