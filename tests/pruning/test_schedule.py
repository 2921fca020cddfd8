"""The k-th sparsity, and the steps in which masks are made."""

import pytest

from kdcore.errors import Place, WiringError
from kdcore.pruning import PruningGroup
from kdcore.pruning.schedule import Schedule, sparsity_at

NAMES = {"linear": "linear", "cos": "cosine", "cube": "cubic", "exp": "exponential"}


def schedule(total_steps=None, steps_per_epoch=None, target=0.8, **written):
    group = PruningGroup.from_mapping({"target_sparsity": target, "schedule": written})
    return Schedule.of(group, total_steps, steps_per_epoch)


def due(found, until=1000):
    return [step for step in range(until) if found.due(step)]


@pytest.mark.parametrize("theirs", NAMES)
def test_values_of_neural_compressor(golden, theirs):
    rows = golden["schedule"][theirs]
    assert len(rows) == 84
    for step, total, target, initial, most, value in rows:
        assert sparsity_at(NAMES[theirs], step, total, target, initial, most) == pytest.approx(value, rel=1e-12)


def test_the_first_masks_are_those_of_the_initial_sparsity_and_the_last_those_of_the_target():
    for kind in NAMES.values():
        found = schedule(type=kind, start=10, end=50, every=10)
        assert due(found) == [10, 20, 30, 40, 50]
        assert found.sparsity(9, 0.3) == found.sparsity(10, 0.3) == 0.3
        assert found.sparsity(50, 0.3) == found.sparsity(999, 0.3) == 0.8
        values = [found.sparsity(step, 0.3) for step in range(10, 60)]
        assert values == sorted(values)


def test_an_end_that_is_no_multiple_of_every_is_not_passed():
    assert due(schedule(start=0, end=25, every=10)) == [0, 10, 20]
    assert schedule(start=0, end=25, every=10).sparsity(20) == 0.8


def test_one_shot():
    found = schedule(type="one_shot", start=7)
    assert due(found) == [7]
    assert found.sparsity(6) == 0
    assert found.sparsity(7) == 0.8


def test_epochs():
    assert due(schedule(100, 10, unit="epoch", start=1, end=4)) == [10, 20, 30, 40]
    assert due(schedule(100, 10, unit="epoch", start=0, end=8, every=4)) == [0, 40, 80]
    # The end of the last epoch is its last step.
    assert due(schedule(100, 10, unit="epoch", start=8, end=10)) == [80, 90]


@pytest.mark.parametrize(
    ("total", "start", "expected"), [(200, 0, (0, 150, 15)), (20, 0, (0, 15, 1)), (4000, 1000, (1000, 3000, 100))]
)
def test_auto(total, start, expected):
    found = schedule(total, start=start)
    assert (found.start, found.last, found.every) == expected


def test_the_number_of_steps_stands_for_the_last():
    assert due(schedule(100, start=0, end=100, every=25)) == [0, 25, 50, 75]
    assert schedule(100, start=0, end=100, every=33).last == 99


@pytest.mark.parametrize(
    ("written", "steps", "message"),
    [
        (
            {"end": 300},
            (200, None),
            r"pruning.schedule.end.*ends at step 300, but there are only 200 steps[\s\S]*200 or less",
        ),
        ({"end": 30, "unit": "epoch"}, (200, 10), "ends at epoch 30 .step 300., but there are only 200 steps"),
        ({"start": 200}, (200, None), r"pruning.schedule.start.*starts at step 200, but there are only 200 steps"),
        ({"type": "one_shot", "start": 5, "unit": "epoch"}, (50, 10), "starts at epoch 5 .step 50."),
        ({"unit": "epoch", "end": 3}, (200, None), "how many steps an epoch has[\\s\\S]*steps_per_epoch"),
        ({}, (None, None), "the number of steps is not known[\\s\\S]*total_steps"),
        ({"start": 95, "every": 10}, (100, None), "no second pruning[\\s\\S]*one_shot"),
        ({"start": 7, "unit": "epoch", "every": 2}, (100, 10), "no second pruning"),
    ],
)
def test_what_does_not_fit_the_steps(written, steps, message):
    group = {"target_sparsity": 0.8, "schedule": written}
    with pytest.raises(WiringError, match=message):
        Schedule.of(PruningGroup.from_mapping(group, Place("pruning")), *steps)
