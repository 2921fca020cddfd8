"""What a searcher suggests, learns and remembers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Kind
from kdcore.errors import KdcoreError
from kdcore.search.condition import Condition, Test
from kdcore.search.domain import Choices, Range
from kdcore.search.objectives import Objective
from kdcore.search.space import Parameter, Point, Space, point_key
from kdcore.testing.check import check
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject
from kdcore.testing.use import Found, uses

SEARCHER = {Kind.SEARCHER}
METHODS = ("setup", "suggest", "feedback", "state_dict", "load_state_dict")
TRIALS = 4
# So many suggestions of a finite space may be repeats before it counts as never ending.
PATIENCE = 4

FINITE = Space(
    [
        Parameter("kind", Choices(["a", "b", None])),
        Parameter("depth", Range(1, 3, integer=True), Condition({"kind": Test(values=("a",))})),
        Parameter("width", Choices([4, 8])),
    ],
    [Condition({"kind": Test(values=(None,)), "width": Test(values=(8,))})],
)
INFINITE = Space(
    [
        Parameter("lr", Range(1e-4, 1.0, log=True)),
        Parameter("kind", Choices(["a", "b"])),
        Parameter("momentum", Range(0.0, 0.9), Condition({"kind": Test(values=("a",))})),
    ]
)
OBJECTIVES = (Objective("quality", True), Objective("cost", False))


@check(SEARCHER, "points are in the space, and a finite one comes to its end", after=("builds", "defaults_kept"))
def suggestions(subject: Subject) -> None:
    """Search spaces with conditions and exclusions, feeding results back."""
    lacking = [name for name in METHODS if not callable(getattr(subject.build(), name, None))]
    if lacking:
        raise Finding(f"it has no {', '.join(lacking)}: kdcore.contracts.Searcher says what a searcher is")
    for space in _spaces(subject):
        searcher, seen = _prepared(subject, space), set[str]()
        size = space.size()
        for _ in range(TRIALS if size is None else PATIENCE * size):
            point = _suggested(searcher, space)
            if point is None:
                break
            seen.add(point_key(point))
            searcher.feedback(dict(point), _results(point))
        if size is not None and point is None and len(seen) < size:
            raise Finding(f"it ended after {len(seen)} of the {size} points of a space")


@check(SEARCHER, "the same seed gives the same search, whatever else draws", after=("suggestions",))
def same_search(subject: Subject) -> None:
    """Search twice, with global generators in different states, which must not move either."""
    for space in _spaces(subject):
        found = []
        for seed in (1, 2):
            random.seed(seed)
            before = random.getstate()
            found.append([point_key(point) for point in _searched(_prepared(subject, space), space)])
            if random.getstate() != before:
                raise Finding("it moves Python's global generator: give the searcher one of its own")
        if found[0] != found[1]:
            raise Finding("two searches with the same params differ: draw from a generator made of the seed")


@check(SEARCHER, "it goes on exactly from its state, which JSON can hold", after=("same_search",))
def search_continues(subject: Subject) -> None:
    """Save in the middle of a search, with a suggestion open, and go on with both."""
    for space in _spaces(subject):
        searcher = _prepared(subject, space)
        list(_searched(searcher, space, TRIALS // 2))
        pending = searcher.suggest()
        try:
            state = json.loads(json.dumps(searcher.state_dict(), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise Finding(f"JSON cannot hold its state_dict: {error}") from None
        twin = _prepared(subject, space)
        twin.load_state_dict(state)
        if pending is not None:
            for each in (searcher, twin):
                each.feedback(dict(pending), _results(pending))
        first, second = (
            [point_key(point) for point in _searched(each, space, TRIALS // 2)] for each in (searcher, twin)
        )
        if first != second:
            raise Finding("a searcher that went on from its state suggests other points: something is not in it")


@check(SEARCHER, "failed trials, results out of order and results of others are taken", after=("suggestions",))
def any_feedback(subject: Subject) -> None:
    """Hold several suggestions open, feed them back backwards, some as failed, and points never suggested."""
    for space in _spaces(subject):
        searcher = _prepared(subject, space)
        stranger = space.sample(random.Random(7))
        searcher.feedback(dict(stranger), _results(stranger))
        held = [point for point in (searcher.suggest() for _ in range(4)) if point is not None]
        for number, point in enumerate(reversed(held)):
            given = dict(point)
            searcher.feedback(given, None if number % 2 else _results(point))
            if given != point:
                raise Finding("feedback changes the point that it is given: copy it")
        _suggested(searcher, space)


@uses(Kind.SEARCHER)
def _used(subject: Subject, number: int) -> Found:
    found: Found = []
    for space in _spaces(subject):
        searcher = _prepared(subject, space)
        for _ in range(TRIALS // 2):
            point = _suggested(searcher, space)
            if point is not None:
                found.append(point_key(point))
                searcher.feedback(dict(point), {name: number - value for name, value in _results(point).items()})
    return found


def _spaces(subject: Subject) -> Iterator[Space]:
    """Yield the spaces that the searcher's own check does not refuse."""
    own = subject.registered.component.check
    for space in (FINITE, INFINITE):
        context = CheckContext(space=space, objectives=OBJECTIVES)
        if own is None or not list(own(dict(subject.given.params), context)):
            yield space


def _prepared(subject: Subject, space: Space) -> Any:
    searcher = subject.build()
    searcher.setup(space, OBJECTIVES)
    return searcher


def _searched(searcher: Any, space: Space, trials: int = TRIALS) -> Iterator[Point]:
    for _ in range(trials):
        point = _suggested(searcher, space)
        if point is None:
            return
        searcher.feedback(dict(point), _results(point))
        yield point


def _suggested(searcher: Any, space: Space) -> Point | None:
    point = searcher.suggest()
    if point is None:
        return None
    if not isinstance(point, dict):
        raise Finding(f"suggest() returned a {type(point).__name__}; a point is a dict of values by path, or None")
    try:
        space.check(point)
    except KdcoreError as error:
        raise Finding(f"it suggested {point}, which is not in the space: {error.problem.what}") from None
    return point


def _results(point: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics that depend on the point, the same ones for the same point."""
    drawn = random.Random(point_key(point))
    return {"quality": drawn.random(), "cost": drawn.random(), "other": 1.0}
