"""Objectives, constraints, and one number for several objectives."""

from __future__ import annotations

import math

import pytest

from kdcore.search.objectives import Constraint, Objective, contradiction, feasible, missing, scores

ACCURACY, LATENCY = Objective("accuracy", True), Objective("latency_ms", False)


def rows(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"accuracy": first, "latency_ms": second} for first, second in pairs]


@pytest.mark.parametrize(
    ("text", "metric", "sign", "bound"),
    [
        ("parameters <= 50000", "parameters", "<=", 50000.0),
        ("val/student/accuracy>=0.9", "val/student/accuracy", ">=", 0.9),
        (" val/losses/kd < 1e-3 ", "val/losses/kd", "<", 0.001),
        ("latency_ms > -1.5", "latency_ms", ">", -1.5),
    ],
)
def test_constraints_are_read(text: str, metric: str, sign: str, bound: float) -> None:
    assert Constraint.parse(text) == Constraint(metric, sign, bound)
    assert Constraint.parse(str(Constraint.parse(text))) == Constraint(metric, sign, bound)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("parameters", "'parameters' is not a constraint; write metric <= number"),
        ("parameters = 5", "'parameters = 5' is an equation: give a range with <= and >="),
        ("parameters == 5", "is an equation"),
        ("parameters <= many", "not a constraint"),
        ("50000 >= parameters", "not a constraint"),
        ("1 <= parameters <= 2", "not a constraint"),
        ("parameters <= 50_000", "50_000 is not a finite number"),
        ("parameters <= 1e999", "1e999 is not a finite number"),
        ("parameters <= 1e", "1e is not a finite number"),
        ("<= 5", "not a constraint"),
        ("", "not a constraint"),
    ],
)
def test_what_is_no_constraint(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Constraint.parse(text)


@pytest.mark.parametrize(
    ("text", "value", "violation"),
    [
        ("p <= 5", 5, 0),
        ("p <= 5", 7, 2),
        ("p <= 5", 1, -4),
        ("p >= 5", 4, 1),
        ("p >= 5", 5, 0),
        ("p > 5", 6, -1),
    ],
)
def test_violations_are_above_zero_where_a_constraint_does_not_hold(text: str, value: float, violation: float) -> None:
    constraint = Constraint.parse(text)
    assert constraint.violation({"p": value}) == violation
    assert constraint.holds({"p": value}) is (violation <= 0)


def test_strict_bounds_and_nan_are_violated() -> None:
    assert Constraint.parse("p < 5").violation({"p": 5}) > 0
    assert not Constraint.parse("p < 5").holds({"p": 5})
    assert Constraint.parse("p < 5").violation({"p": math.nan}) == math.inf
    assert not Constraint.parse("p < 5").holds({"p": math.nan})
    assert not feasible([Constraint.parse("p < 5"), Constraint.parse("q > 0")], {"p": 1, "q": 0})
    assert feasible([Constraint.parse("p < 5"), Constraint.parse("q > 0")], {"p": 1, "q": 1})


@pytest.mark.parametrize(
    ("texts", "clash"),
    [
        (["p <= 5", "q >= 6", "p >= 6"], (0, 2)),
        (["p >= 5", "p < 5"], (0, 1)),
        (["p >= 5", "p <= 5"], None),
        (["p <= 5", "p <= 3", "p >= 4"], (1, 2)),
        (["p <= 5", "p >= 1", "p < 3"], None),
    ],
)
def test_constraints_that_cannot_hold_together(texts: list[str], clash: tuple[int, int] | None) -> None:
    assert contradiction([Constraint.parse(text) for text in texts]) == clash


def test_metrics_that_are_missing_are_named_once() -> None:
    constraints = [Constraint.parse("latency_ms <= 3"), Constraint.parse("bytes <= 3")]
    assert missing([ACCURACY, LATENCY], constraints, {"accuracy": 1.0}) == ["latency_ms", "bytes"]


def test_one_objective_is_its_own_score() -> None:
    assert scores([LATENCY], rows((0.9, 3.0), (0.1, 2.0), (0.5, math.nan))) == [-3.0, -2.0, -math.inf]


def test_several_objectives_are_scaled_before_they_are_added() -> None:
    # As plain numbers, 10 ms would outweigh any accuracy.
    assert scores([ACCURACY, LATENCY], rows((0.9, 30.0), (0.1, 20.0), (0.8, 22.0))) == pytest.approx(
        [0.5, 0.5, (0.875 + 0.8) / 2]
    )
    heavy = Objective("accuracy", True, weight=3.0)
    assert scores([heavy, LATENCY], rows((0.9, 30.0), (0.1, 20.0))) == pytest.approx([0.75, 0.25])


def test_rows_without_finite_values_come_last_and_move_no_scale() -> None:
    found = scores(
        [ACCURACY, LATENCY], [*rows((1.0, 2.0), (0.0, 1.0), (5.0, math.inf), (math.nan, 0.0)), {"accuracy": 1}]
    )
    assert found == [0.5, 0.5, -math.inf, -math.inf, -math.inf]
    assert scores([ACCURACY, LATENCY], rows((1.0, 2.0))) == [1.0]
    assert scores([ACCURACY, LATENCY], []) == []
