"""What a search looks for: objectives, constraints, and one number for several objectives."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdcore.search.values import is_number

# What is measured on the searched model itself, besides the metrics of its training.
MEASURES = ("parameters", "bytes", "flops", "latency_ms")

_CONSTRAINT = re.compile(r"\s*(?P<metric>[^\s<>=!]+)\s*(?P<sign><=|>=|<|>)\s*(?P<bound>[-+0-9.eE_]+)\s*")
_FORM = "write metric <= number (or <, >, >=), for example parameters <= 50000"
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Objective:
    """A metric to maximize or to minimize; `weight`, above 0, counts where one number is made of several."""

    metric: str
    maximize: bool
    weight: float = 1.0

    @property
    def goal(self) -> str:
        """The word of the config: maximize or minimize."""
        return "maximize" if self.maximize else "minimize"

    def cost(self, metrics: Mapping[str, float]) -> float:
        """Return the value with the sign that makes less better."""
        return -metrics[self.metric] if self.maximize else metrics[self.metric]


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric, for example `parameters <= 50000`."""

    metric: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read a constraint; raises ValueError that says what is wrong with it."""
        match = _CONSTRAINT.fullmatch(text)
        if match is None:
            why = "an equation: give a range with <= and >=" if re.search(r"(?<![<>])=", text) else "not a constraint"
            raise ValueError(f"{text!r} is {why}; {_FORM}")
        try:
            bound = float(match["bound"]) if "_" not in match["bound"] else math.nan
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise ValueError(f"{text!r}: {match['bound']} is not a finite number; {_FORM}")
        return cls(match["metric"], match["sign"], bound)

    @property
    def upper(self) -> bool:
        """Whether the bound is an upper one."""
        return self.sign in ("<=", "<")

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric is within the bound; NaN is not."""
        return _HOLDS[self.sign](metrics[self.metric], self.bound)

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return by how much the bound is missed, above 0 if and only if the constraint does not hold."""
        value = metrics[self.metric]
        if math.isnan(value):
            return math.inf
        excess = value - self.bound if self.upper else self.bound - value
        return excess if self.holds(metrics) else max(excess, math.ulp(0.0))

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"


def feasible(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> bool:
    """Whether every constraint holds."""
    return all(constraint.holds(metrics) for constraint in constraints)


def missing(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], metrics: Mapping[str, float]
) -> list[str]:
    """Return the metrics that objectives and constraints name but `metrics` lacks, each once."""
    named = [*(each.metric for each in objectives), *(each.metric for each in constraints)]
    return list(dict.fromkeys(name for name in named if name not in metrics))


def contradiction(constraints: Sequence[Constraint]) -> tuple[int, int] | None:
    """Return the positions of two constraints that cannot hold together, the earlier one first."""
    for later, second in enumerate(constraints):
        for earlier, first in enumerate(constraints[:later]):
            if first.metric != second.metric or first.upper == second.upper:
                continue
            upper, lower = (first, second) if first.upper else (second, first)
            touching = upper.sign == "<=" and lower.sign == ">="
            if lower.bound > upper.bound or (lower.bound == upper.bound and not touching):
                return earlier, later
    return None


def scores(objectives: Sequence[Objective], rows: Sequence[Mapping[str, float]]) -> list[float]:
    """Return one number for each row, more is better: the weighted mean of its objectives.

    With several objectives each is first scaled to 0 for the worst and 1 for the best of the finite
    values among `rows`, so that a metric in milliseconds does not drown an accuracy. A row with a
    value that is not finite, or without one, gets minus infinity.
    """
    costs = [[_finite(each, row) for each in objectives] for row in rows]
    sound = [cost for cost in costs if all(math.isfinite(value) for value in cost)]
    if len(objectives) == 1:
        return [-cost[0] if math.isfinite(cost[0]) else -math.inf for cost in costs]
    ends = [(min(column), max(column)) for column in zip(*sound, strict=True)]
    total = math.fsum(each.weight for each in objectives)
    found = []
    for cost in costs:
        if not all(math.isfinite(value) for value in cost):
            found.append(-math.inf)
            continue
        shares = [
            each.weight * ((high - value) / (high - low) if high > low else 1.0)
            for each, value, (low, high) in zip(objectives, cost, ends, strict=True)
        ]
        found.append(math.fsum(shares) / total)
    return found


def _finite(objective: Objective, row: Mapping[str, float]) -> float:
    return objective.cost(row) if is_number(row.get(objective.metric)) else math.nan
