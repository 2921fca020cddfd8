"""Parameters of a search space as distributions of Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from kdcore.search.domain import Choices, Domain, Range
from kdcore.search.space import Parameter, Point, Space
from kdcore.search.values import is_number, token

# Optuna's integers are floats inside.
_MAX_COUNT = 2**31


class Code:
    """How one parameter is written for Optuna, and read back.

    Numbers have an order even where they are listed: choices that are all numbers become their rank, so
    that 4, 8, 16 are three steps alike. Other choices have no order.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.values: list[Any] = []
        if isinstance(domain, Choices):
            self.values = list(domain.values)
            ordered = all(map(is_number, self.values))
            if ordered:
                self.values.sort()
            count = len(self.values)
            self.distribution: BaseDistribution = (
                IntDistribution(0, count - 1) if ordered else CategoricalDistribution(range(count))
            )
        elif domain.log and domain.integer:
            self.distribution = IntDistribution(int(domain.low), int(domain.high), log=True)
        elif domain.size is None or domain.size > _MAX_COUNT:
            self.distribution = FloatDistribution(domain.low, domain.high, log=domain.log)
        else:
            self.distribution = IntDistribution(0, domain.size - 1)

    def suggest(self, trial: Trial, path: str) -> Any:
        """Return the value that a trial's sampler proposes."""
        kind = self.distribution
        if isinstance(kind, CategoricalDistribution):
            return self.read(trial.suggest_categorical(path, kind.choices))
        if isinstance(kind, IntDistribution):
            return self.read(trial.suggest_int(path, kind.low, kind.high, log=kind.log))
        assert isinstance(kind, FloatDistribution)
        return self.read(trial.suggest_float(path, kind.low, kind.high, log=kind.log))

    def read(self, code: Any) -> Any:
        """Return the value that Optuna's `code` stands for."""
        if isinstance(self.domain, Choices):
            return self.values[int(code)]
        if self.domain.log and self.domain.integer:
            return int(code)
        if isinstance(self.distribution, FloatDistribution):
            number = min(max(float(code), self.domain.low), self.domain.high)
            return number if self.domain.size is None else self.domain.value(self._nearest(number))
        return self.domain.value(int(code))

    def write(self, value: Any) -> Any:
        """Return what stands for `value`."""
        if isinstance(self.domain, Choices):
            return [token(each) for each in self.values].index(token(value))
        if self.domain.log and self.domain.integer:
            return int(value)
        if isinstance(self.distribution, FloatDistribution):
            return float(value)
        index = self.domain.index(value)
        assert index is not None, f"{value} is not in {self.domain}"
        return index

    @property
    def middle(self) -> Any:
        """What stands for a parameter that is not active, where every point must have all."""
        if isinstance(self.domain, Choices):
            return 0 if isinstance(self.distribution, CategoricalDistribution) else (len(self.values) - 1) // 2
        if self.domain.log:
            return self.write(self._geometric_mean(self.domain))
        if isinstance(self.distribution, FloatDistribution):
            return (self.domain.low + self.domain.high) / 2
        return ((self.domain.size or 1) - 1) // 2

    def _nearest(self, number: float) -> int:
        assert isinstance(self.domain, Range)
        assert self.domain.spacing is not None
        return min(round((number - self.domain.low) / self.domain.spacing), (self.domain.size or 1) - 1)

    @staticmethod
    def _geometric_mean(domain: Range) -> float:
        middle = math.sqrt(domain.low * domain.high)
        return round(middle) if domain.integer else middle


class Encoding:
    """How the points of a space are written for Optuna.

    Arguments:
        space: which points there are.
        whole: give parameters that are not active a fixed value, for samplers that need every parameter.
    """

    def __init__(self, space: Space, *, whole: bool) -> None:
        self.space = space
        self.whole = whole
        self.codes = {each.path: Code(each.domain) for each in space}
        self.parents_first: list[Parameter] = space.parents_first()

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter's distribution."""
        return {path: code.distribution for path, code in self.codes.items()}

    def write(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return what stands for `point`, by path."""
        written = {path: self.codes[path].write(value) for path, value in point.items()}
        if self.whole:
            written = {path: written.get(path, code.middle) for path, code in self.codes.items()}
        return {path: written[path] for path in self.codes if path in written}

    def read(self, codes: Mapping[str, Any]) -> Point:
        """Return the point that `codes` stand for, without parameters that are not active in it."""
        point: Point = {}
        for each in self.parents_first:
            if each.when(point):
                point[each.path] = self.codes[each.path].read(codes[each.path])
        return {path: point[path] for path in sorted(point)}
