"""Conditions on the values of other parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdcore.search.domain import Domain
from kdcore.search.values import is_number, shown, token

Point = dict[str, Any]


@dataclass(frozen=True)
class Test:
    """What a value must be: one of `values`, or a number from `low` to `high` (None: no bound)."""

    __test__ = False  # of pytest's collection: the name is the field's own word

    values: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None

    def __call__(self, value: Any) -> bool:
        """Whether `value` is what it must be."""
        if self.values is not None:
            return token(value) in {token(each) for each in self.values}
        if not is_number(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def possible(self, domain: Domain) -> bool:
        """Whether some value of `domain` passes."""
        if self.values is not None:
            return any(value in domain for value in self.values)
        if domain.size is not None and domain.size <= 100_000:
            return any(self(value) for value in domain)
        low, high = getattr(domain, "low", 0.0), getattr(domain, "high", 0.0)
        return (self.low is None or high >= self.low) and (self.high is None or low <= self.high)

    def describe(self) -> Any:
        """Return the test as plain data."""
        if self.values is not None:
            return list(self.values)
        return {key: bound for key, bound in (("low", self.low), ("high", self.high)) if bound is not None}

    def __str__(self) -> str:
        if self.values is not None:
            return " or ".join(map(shown, self.values))
        ends = (("at least", self.low), ("at most", self.high))
        return " and ".join(f"{word} {bound}" for word, bound in ends if bound is not None)


@dataclass(frozen=True)
class Condition:
    """Tests on several parameters, all of which must be active and pass."""

    tests: Mapping[str, Test] = field(default_factory=dict)

    def __call__(self, point: Mapping[str, Any]) -> bool:
        """Whether `point` meets the condition; what is not in it is not active."""
        return all(path in point and test(point[path]) for path, test in self.tests.items())

    def describe(self) -> dict[str, Any]:
        """Return the condition as plain data."""
        return {path: test.describe() for path, test in self.tests.items()}

    def __str__(self) -> str:
        return " and ".join(f"{path} is {test}" for path, test in self.tests.items())
