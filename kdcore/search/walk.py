"""Going through a search space: counting its points without listing them, listing them, drawing one."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcore.search.cells import Cell, cells
from kdcore.search.condition import Condition, Point, Test

if TYPE_CHECKING:
    from kdcore.search.space import Parameter

_OFF = -1


class Walk:
    """Parameters decided one after the other, in the order given.

    For counting, the values of a parameter that no condition tells apart are one cell, and what was
    decided is forgotten as soon as no condition looks back at it. So the cost follows the conditions,
    not the number of points.
    """

    def __init__(self, parameters: Sequence[Parameter], exclude: Sequence[Condition]) -> None:
        self.parameters = parameters
        index = {each.path: position for position, each in enumerate(parameters)}
        conditions = [*(each.when for each in parameters), *exclude]
        tests: dict[str, list[Test]] = {each.path: [] for each in parameters}
        for condition in conditions:
            for path, test in condition.tests.items():
                tests[path].append(test)
        self.cells: list[list[Cell]] = [cells(each.domain, tests[each.path]) for each in parameters]
        # A parameter's activity can be judged once its last parent is decided, which may come after it.
        self.settled: list[list[Parameter]] = [[] for _ in parameters]
        self.barred: list[list[Condition]] = [[] for _ in parameters]
        spans = []
        for position, each in enumerate(parameters):
            span = [position, *(index[path] for path in each.when.tests)]
            self.settled[max(span)].append(each)
            spans.append(span)
        for condition in exclude:
            span = [index[path] for path in condition.tests]
            self.barred[max(span)].append(condition)
            spans.append(span)
        self.remembered = [
            sorted({each for span in spans if max(span) >= position for each in span if each < position})
            for position in range(len(parameters) + 1)
        ]
        self._counts: dict[tuple[int, tuple[int, ...]], float] = {}

    @property
    def size(self) -> int | None:
        """The number of points, None for infinitely many."""
        found = self._completions(0, ())
        return None if found == math.inf else int(found)

    @property
    def possible(self) -> bool:
        """Whether there is any point."""
        return self._completions(0, ()) > 0

    def points(self) -> Iterator[Point]:
        """Yield every point of a finite space in order."""
        options = [tuple(each.domain) for each in self.parameters]
        return (dict(point) for point in self._points(0, {}, options))

    def sample(self, generator: random.Random) -> Point:
        """Draw a point of a space that has some; where it is finite, each with the same chance."""
        chosen: list[int] = []
        point: Point = {}
        for position, parameter in enumerate(self.parameters):
            options = list(self._options(position, tuple(chosen), point))
            weights = [self._weight(position, (*chosen, cell), multiple) for cell, multiple in options]
            if math.inf in weights:
                weights = [int(weight == math.inf) for weight in weights]
            total = sum(weights)
            cell = generator.choices([cell for cell, _ in options], [weight / total for weight in weights])[0]
            chosen.append(cell)
            if cell != _OFF:
                point[parameter.path] = self.cells[position][cell].sample(generator)
        return point

    def _points(self, position: int, point: Point, options: Sequence[Sequence[Any]]) -> Iterator[Point]:
        if position == len(self.parameters):
            yield point
            return
        path = self.parameters[position].path
        if self._fits(position, point):
            yield from self._points(position + 1, point, options)
        for value in options[position]:
            point[path] = value
            if self._fits(position, point):
                yield from self._points(position + 1, point, options)
        point.pop(path, None)

    def _fits(self, position: int, point: Mapping[str, Any]) -> bool:
        """Whether what is decided up to `position` breaks no condition that can be judged only now."""
        return all(each.when(point) == (each.path in point) for each in self.settled[position]) and not any(
            condition(point) for condition in self.barred[position]
        )

    def _completions(self, position: int, state: tuple[int, ...]) -> float:
        """Return in how many ways the parameters from `position` on can be chosen, after what `state` remembers."""
        if (position, state) not in self._counts:
            self._counts[position, state] = self._count(position, state)
        return self._counts[position, state]

    def _count(self, position: int, state: tuple[int, ...]) -> float:
        if position == len(self.parameters):
            return 1
        known = dict(zip(self.remembered[position], state, strict=True))
        chosen = tuple(known.get(each, _OFF) for each in range(position))
        point = {
            self.parameters[each].path: self.cells[each][cell].value for each, cell in known.items() if cell != _OFF
        }
        options = self._options(position, chosen, point)
        return sum(self._weight(position, (*chosen, cell), multiple) for cell, multiple in options)

    def _weight(self, position: int, chosen: tuple[int, ...], multiple: float) -> float:
        """Return how many points go on from the last of the cells `chosen`, which holds `multiple` values."""
        completions = self._completions(position + 1, self._state(position + 1, chosen))
        return multiple * completions if completions else 0

    def _options(self, position: int, chosen: tuple[int, ...], point: Point) -> Iterator[tuple[int, float]]:
        """Yield the cells that are possible at `position`, and how many values each holds."""
        path = self.parameters[position].path
        if self._fits(position, point):
            yield _OFF, 1
        for number, cell in enumerate(self.cells[position]):
            if self._fits(position, {**point, path: cell.value}):
                yield number, cell.count

    def _state(self, position: int, chosen: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(chosen[each] for each in self.remembered[position])
