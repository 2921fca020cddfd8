"""Each wrong searcher is caught by the check that is there for it, and a right one by none."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from kdcore.component import Kind
from kdcore.plugins import Registry
from kdcore.search.space import Space, point_key
from kdcore.search.unseen import draw_unseen, generator_state, restored_generator
from kdcore.testing import Conformance

SCHEMA = {"type": "object", "additionalProperties": False, "properties": {}}


class Right:
    """Draws points, none twice."""

    def __init__(self) -> None:
        self.generator = random.Random(0)
        self.seen: list[str] = []

    def setup(self, space: Space, objectives: Any, *, constraints: Any = (), storage: Any = None) -> None:
        self.space = space

    def suggest(self) -> dict[str, Any] | None:
        point = draw_unseen(self.space, self.seen, self.generator)
        if point is not None:
            self.seen.append(point_key(point))
        return point

    def feedback(self, point: dict[str, Any], metrics: Any) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"generator": generator_state(self.generator), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator, self.seen = restored_generator(state["generator"]), list(state["seen"])


class Silent:
    """Only suggests."""

    def suggest(self) -> None:
        return None


class GivesUp(Right):
    def suggest(self) -> dict[str, Any] | None:
        return None if len(self.seen) == 2 else super().suggest()


class IgnoresConditions(Right):
    def suggest(self) -> dict[str, Any] | None:
        return {each.path: each.domain.sample(self.generator) for each in self.space}


class SuggestsTuples(Right):
    def suggest(self) -> Any:
        return tuple((super().suggest() or {}).items())


class DrawsGlobally(Right):
    def suggest(self) -> dict[str, Any] | None:
        self.generator = random.Random(random.random())
        return super().suggest()


class Unseeded(Right):
    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random()


class ForgetsWhatItSaw(Right):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator = restored_generator(state["generator"])


class KeepsObjects(Right):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"space": self.space}


class NeedsMetrics(Right):
    def feedback(self, point: dict[str, Any], metrics: Any) -> None:
        assert metrics["quality"] >= 0


class KnowsItsOwnOnly(Right):
    def feedback(self, point: dict[str, Any], metrics: Any) -> None:
        self.seen.index(point_key(point))


class EatsThePoint(Right):
    def feedback(self, point: dict[str, Any], metrics: Any) -> None:
        point.clear()


def failures(factory: Any) -> dict[str, str]:
    registered = Registry().register(Kind.SEARCHER, "test", factory, schema=SCHEMA, summary="a test")
    conformance = Conformance(registered)
    results = [conformance.result(*each) for each in conformance.trials()]
    return {result.check: result.message for result in results if result.failed}


def test_a_right_one_passes() -> None:
    assert failures(Right) == {}


@pytest.mark.parametrize(
    ("factory", "check", "message"),
    [
        (Silent, "suggestions", "it has no setup, feedback, state_dict, load_state_dict"),
        (GivesUp, "suggestions", "it ended after 2 of the 9 points"),
        (IgnoresConditions, "suggestions", "not in the space: depth must be left out"),
        (SuggestsTuples, "suggestions", r"suggest\(\) returned a tuple; a point is a dict"),
        (DrawsGlobally, "same_search", "it moves Python's global generator"),
        (Unseeded, "same_search", "two searches with the same params differ"),
        (ForgetsWhatItSaw, "search_continues", "went on from its state suggests other points"),
        (KeepsObjects, "search_continues", "JSON cannot hold its state_dict: Object of type Space"),
        (NeedsMetrics, "any_feedback", "it raised TypeError"),
        (KnowsItsOwnOnly, "any_feedback", "it raised ValueError"),
        (EatsThePoint, "any_feedback", "feedback changes the point"),
    ],
)
def test_a_wrong_one_is_caught(factory: Any, check: str, message: str) -> None:
    found = failures(factory)
    assert check in found, found

    assert re.search(message, found[check]), found[check]
