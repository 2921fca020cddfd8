"""A search space: parameters with conditions between them, and combinations that are excluded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdcore.errors import ConfigError, KdcoreError, Place, Problem, suggestion
from kdcore.search.condition import Condition, Point, Test
from kdcore.search.domain import Choices, Domain, Range
from kdcore.search.flaws import flaws
from kdcore.search.values import shown, token
from kdcore.search.walk import Walk

__all__ = ["Choices", "Condition", "Domain", "Parameter", "Point", "Range", "Space", "Test", "point_key"]

_TRIES = 1000


@dataclass(frozen=True)
class Parameter:
    """One parameter: the config path it sets, its values, and when it is active at all.

    Where its condition does not hold it is left out of a point, and the config's own value stays.
    """

    path: str
    domain: Domain
    when: Condition = field(default_factory=Condition)


class Space:
    """Parameters, in the order of their paths, and combinations that are excluded.

    Arguments:
        parameters: with different paths; conditions may name each other's parameters, but not in a circle.
        exclude: a point that meets one of these conditions is not in the space.

    Raises:
        ConfigError: conditions that name unknown parameters, can never hold or go in a circle, and a space
            without any point.
    """

    def __init__(self, parameters: Sequence[Parameter], exclude: Sequence[Condition] = ()) -> None:
        self.parameters = tuple(sorted(parameters, key=lambda each: each.path))
        self.exclude = tuple(exclude)
        found = flaws(self.parameters, self.exclude)
        if found:
            raise ConfigError(Problem(each.what, Place(".".join(map(str, each.where))), each.repair) for each in found)
        self._by_path = {each.path: each for each in self.parameters}
        self._walk = Walk(self.parameters, self.exclude)
        if not self._walk.possible:
            what = "the search space is empty: every point is excluded"
            raise ConfigError([Problem(what, Place("exclude"), "take out an exclusion")])
        self._order = _parents_first(self.parameters)

    def __getitem__(self, path: str) -> Parameter:
        return self._by_path[path]

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def size(self) -> int | None:
        """Return the number of points, None for infinitely many."""
        return self._walk.size

    def enumerate(self) -> Iterator[Point]:
        """Yield every point: paths in alphabetical order, the last one varying fastest, choices as written.

        A parameter that is not active comes before its values. Raises ValueError for an infinite space.
        """
        if self.size() is None:
            raise ValueError(
                f"the search space is infinite: {', '.join(self.continuous())} can be any number of a range"
            )
        return self._walk.points()

    def continuous(self) -> list[str]:
        """Return the paths of the parameters that have infinitely many values."""
        return [each.path for each in self.parameters if each.domain.size is None]

    def parents_first(self) -> list[Parameter]:
        """Return the parameters so that each comes after those that its condition looks at."""
        return list(self._order)

    def sample(self, generator: random.Random) -> Point:
        """Draw a point: parents before what depends on them, each by itself; excluded ones are drawn again."""
        for _ in range(_TRIES):
            point: Point = {}
            for each in self._order:
                if each.when(point):
                    point[each.path] = each.domain.sample(generator)
            if not any(condition(point) for condition in self.exclude):
                return {path: point[path] for path in sorted(point)}
        # Nearly everything is excluded.
        return self._walk.sample(generator)

    def check(self, point: Mapping[str, Any]) -> None:
        """Raise KdcoreError if `point` is not in the space, saying why."""
        for path in point:
            if path not in self._by_path:
                raise KdcoreError(
                    f"the search space has no parameter {path!r}",
                    repair=suggestion(path, self._by_path, noun="parameters"),
                )
        for each in self.parameters:
            if each.when(point) != (each.path in point):
                state = "must be given" if each.when(point) else "must be left out"
                because = f", for it is active only if {each.when}" if each.when.tests else ""
                raise KdcoreError(f"{each.path} {state}{because}")
            if each.path in point and point[each.path] not in each.domain:
                raise KdcoreError(f"{each.path} cannot be {shown(point[each.path])}", repair=f"it is {each.domain}")
        for condition in self.exclude:
            if condition(point):
                raise KdcoreError(f"the point is excluded: {condition}")

    def __contains__(self, point: Mapping[str, Any]) -> bool:
        try:
            self.check(point)
        except KdcoreError:
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """Return the space as plain data, equal for equal spaces."""
        parameters = {
            each.path: each.domain.describe() | ({"when": each.when.describe()} if each.when.tests else {})
            for each in self.parameters
        }
        return {"parameters": parameters, "exclude": [condition.describe() for condition in self.exclude]}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return how this space differs from another's `describe()`, a sentence for each difference."""
        own = self.describe()
        mine, theirs = own["parameters"], other.get("parameters", {})
        found = [f"{path} is in this space only" for path in sorted(mine.keys() - theirs.keys())]
        found += [f"{path} is in the other space only" for path in sorted(theirs.keys() - mine.keys())]
        for path in sorted(mine.keys() & theirs.keys()):
            if token(mine[path]) != token(theirs[path]):
                found.append(f"{path} is {shown(mine[path], 200)} here and {shown(theirs[path], 200)} there")
        if sorted(map(token, own["exclude"])) != sorted(map(token, other.get("exclude", []))):
            found.append("other combinations are excluded")
        return found


def point_key(point: Mapping[str, Any]) -> str:
    """Return a text that two points share if and only if they are the same point."""
    return token(dict(point))


def _parents_first(parameters: Sequence[Parameter]) -> list[Parameter]:
    placed: dict[str, Parameter] = {}
    while len(placed) < len(parameters):
        ready = [each for each in parameters if each.path not in placed and each.when.tests.keys() <= placed.keys()]
        placed |= {each.path: each for each in ready}
    return list(placed.values())
