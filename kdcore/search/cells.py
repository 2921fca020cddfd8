"""Values of a parameter that no condition tells apart."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kdcore.search.condition import Test
from kdcore.search.domain import Choices, Domain, Range


@dataclass(frozen=True)
class Cell:
    """Some values of a domain: one of them, how many there are, and which.

    `members` are the values of choices; otherwise `ends` are the first and the last index of a range
    that can be counted, or the ends of an open interval of one that cannot.
    """

    value: Any
    count: float
    domain: Domain
    members: tuple[Any, ...] = ()
    ends: tuple[float, float] = (0.0, 0.0)

    def sample(self, generator: random.Random) -> Any:
        """Draw one value, each with the same chance."""
        if self.members:
            return self.members[generator.randrange(len(self.members))]
        if isinstance(self.domain, Range) and self.domain.size is not None:
            return self.domain.value(generator.randint(int(self.ends[0]), int(self.ends[1])))
        if self.count == 1:
            return self.value
        drawn = generator.uniform(*self.ends)
        return drawn if self.ends[0] < drawn < self.ends[1] else self.value


def cells(domain: Domain, tests: Sequence[Test]) -> list[Cell]:
    """Divide the values of `domain` into those that `tests` do not tell apart."""
    if isinstance(domain, Choices):
        groups: dict[tuple[bool, ...], list[Any]] = {}
        for value in domain:
            groups.setdefault(tuple(test(value) for test in tests), []).append(value)
        return [Cell(members[0], len(members), domain, tuple(members)) for members in groups.values()]
    return _counted(domain, tests) if domain.size is not None else _continuous(domain, tests)


def _counted(domain: Range, tests: Iterable[Test]) -> list[Cell]:
    """Cut at the tested values, before and after each."""
    size = domain.size or 0
    cuts = {0, size}
    for number in _named(tests):
        if domain.spacing is None:
            continue
        near = math.floor((number - domain.low) / domain.spacing)
        # The quotient may be off by rounding: cutting once too often costs nothing.
        cuts |= {min(max(cut, 0), size) for cut in range(near - 1, near + 4)}
    edges = sorted(cuts)
    return [
        Cell(domain.value(first), end - first, domain, ends=(first, end - 1))
        for first, end in itertools.pairwise(edges)
    ]


def _continuous(domain: Range, tests: Iterable[Test]) -> list[Cell]:
    named = {number for number in _named(tests) if domain.low <= number <= domain.high}
    edges = sorted({domain.low, domain.high} | named)
    found = [Cell(edge, 1, domain, ends=(edge, edge)) for edge in edges]
    for low, high in itertools.pairwise(edges):
        middle = low + (high - low) / 2
        if low < middle < high:
            found.append(Cell(middle, math.inf, domain, ends=(low, high)))
    return found


def _named(tests: Iterable[Test]) -> set[float]:
    named: list[Any] = []
    for test in tests:
        named += [test.low, test.high] if test.values is None else test.values
    return {each for each in named if isinstance(each, (int, float)) and not isinstance(each, bool)}
