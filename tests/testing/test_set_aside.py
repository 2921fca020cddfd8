"""Two mistakes are said at once: what can be set aside for the other checks is."""

from __future__ import annotations

from typing import Any

import pytest

from kdcore.testing import Conformance, Outcome
from kdcore.testing.aside import set_aside
from kdcore.testing.subject import Subject
from tests.testing.test_wrong_losses import failures, registered
from tests.testing.wrong import losses, several


@pytest.mark.parametrize(
    ("factory", "first"),
    [
        (several.InPlaceToo, "inputs_unchanged"),
        (several.SharedToo, "instances_apart"),
        (several.GraphToo, "graphs_released"),
    ],
)
def test_another_mistake_shows_in_the_same_round(factory: Any, first: str) -> None:
    assert set(failures(registered(factory))) == {first, "teacher_detached"}


# Those that would come upon the same mistake once more.
WAIT = {
    losses.InPlace: ("inputs_unchanged", {"gradients", "in_objective"}),
    losses.SharedGlobal: (
        "instances_apart",
        {"leaves_nothing", "state_continues", "copies", "in_objective"},
    ),
}


@pytest.mark.parametrize("factory", WAIT)
def test_few_checks_wait(factory: Any) -> None:
    first, waiting = WAIT[factory]
    results = [each for each in Conformance(registered(factory)).run() if each.waits_for]
    assert {each.waits_for for each in results} == {first}
    assert {each.check for each in results} == waiting
    assert {each.outcome for each in results} == {Outcome.NOT_APPLICABLE}


def test_what_cannot_be_imported_a_second_time_is_not_set_apart() -> None:
    class Local(losses.Right):
        pass

    assert set_aside(Subject(registered(Local)), "instances_apart") is None
    assert set_aside(Subject(registered(losses.Right)), "finite") is None
