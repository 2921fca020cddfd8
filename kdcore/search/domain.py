"""What one parameter of a search space may be: one of some choices, or a number of a range."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kdcore.search.values import is_number, shown, token

_SHOWN = 8


@dataclass(frozen=True)
class Choices:
    """One of some values, in the order given; equal values count once.

    Raises:
        ValueError: there are none.
    """

    values: tuple[Any, ...]

    def __init__(self, values: Sequence[Any]) -> None:
        first: dict[str, Any] = {}
        for value in values:
            first.setdefault(token(value), value)
        object.__setattr__(self, "values", tuple(first.values()))
        if not self.values:
            raise ValueError("there are no choices")

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __contains__(self, value: Any) -> bool:
        return token(value) in {token(each) for each in self.values}

    def sample(self, generator: random.Random) -> Any:
        """Draw one value, each with the same chance."""
        return self.values[generator.randrange(len(self.values))]

    def describe(self) -> dict[str, Any]:
        """Return the domain as plain data."""
        return {"choices": list(self.values)}

    def __str__(self) -> str:
        return _listed(self.values)


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included.

    Arguments:
        low, high: the ends.
        step: values are `low`, `low + step`, ... as far as they are at most `high`; None for any number,
            or any whole number.
        log: draw so that each factor, not each distance, has the same chance; needs low > 0, and no step.
        integer: whole numbers only.

    Raises:
        ValueError: the ends, the step or the logarithm make no sense.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        for problem in range_problems(self.low, self.high, self.step, self.log, self.integer):
            raise ValueError(problem)

    @property
    def spacing(self) -> float | None:
        """The distance between neighbouring values, None for a continuous range."""
        return self.step if self.step is not None else 1 if self.integer else None

    @property
    def size(self) -> int | None:
        """How many values there are, None for infinitely many."""
        if self.spacing is None:
            return None if self.low < self.high else 1
        return int((_exact(self.high) - _exact(self.low)) // _exact(self.spacing)) + 1

    def value(self, index: int) -> float:
        """Return value number `index` of a range that can be counted."""
        if self.spacing is None:
            return self.low
        found = _exact(self.low) + index * _exact(self.spacing)
        return int(found) if self.integer else float(found)

    def index(self, value: Any) -> int | None:
        """Return which value of a range that can be counted `value` is, None if it is none of them."""
        if not is_number(value) or not self.low <= value <= self.high:
            return None
        if self.spacing is None:
            return 0
        found = round((_exact(value) - _exact(self.low)) / _exact(self.spacing))
        return found if self.value(found) == value else None

    def __iter__(self) -> Iterator[float]:
        if self.size is None:
            raise ValueError(f"{self} has infinitely many values")
        return (self.value(index) for index in range(self.size))

    def __contains__(self, value: Any) -> bool:
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        return self.size is None or self.index(value) is not None

    def sample(self, generator: random.Random) -> float:
        """Draw one value: each with the same chance, or with `log` each factor."""
        size = self.size
        if self.log and self.low < self.high:
            # Whole numbers stand for the stretch up to half a unit around them.
            margin = 0.5 if self.integer else 0.0
            drawn = math.exp(generator.uniform(math.log(self.low - margin), math.log(self.high + margin)))
            drawn = min(max(drawn, self.low), self.high)
            return round(drawn) if self.integer else drawn
        if size is None:
            return min(max(generator.uniform(self.low, self.high), self.low), self.high)
        return self.value(generator.randrange(size))

    def describe(self) -> dict[str, Any]:
        """Return the domain as plain data."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **step, "log": self.log, "integer": self.integer}

    def __str__(self) -> str:
        step = "" if self.step is None else f" in steps of {self.step}"
        kind = "whole numbers " if self.integer and self.step is None else ""
        return f"{kind}from {self.low} to {self.high}{step}{', logarithmic' if self.log else ''}"


Domain = Choices | Range


def range_problems(low: float, high: float, step: float | None, log: bool, integer: bool) -> Iterator[str]:
    """Say what is wrong with the numbers of a range."""
    numbers = [low, high] if step is None else [low, high, step]
    if not all(map(is_number, numbers)):
        yield f"a range needs finite numbers, found {', '.join(map(str, numbers))}"
        return
    if integer and not all(isinstance(each, int) for each in numbers):
        yield f"a range of whole numbers needs whole numbers, found {', '.join(map(str, numbers))}"
    if low > high:
        yield f"the range is empty: low is {low} and high is {high}"
    if step is not None and step <= 0:
        yield f"step must be above 0, found {step}"
    if log and low <= 0:
        yield f"a logarithmic range needs low above 0, found {low}"
    if log and step is not None:
        yield "a range cannot have both step and log"


def _exact(number: float) -> Fraction:
    # Of the decimal that was written: 0.1 is a tenth here, so that three steps of it are 0.3.
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _listed(values: Sequence[Any]) -> str:
    texts = [shown(value) for value in values[:_SHOWN]]
    return ", ".join(texts) + (f", ... ({len(values)} in all)" if len(values) > _SHOWN else "")
