"""Which trials go on."""

from __future__ import annotations

import json
import math

import pytest

from kdcore.config.search_config import HalvingConfig
from kdcore.errors import RunError
from kdcore.search.halving import Halving
from kdcore.search.objectives import Objective

UP = Objective("accuracy", maximize=True)


def halving(after_epochs: int = 1, factor: int = 3, objective: Objective = UP) -> Halving:
    return Halving(HalvingConfig(after_epochs, factor), objective)


def test_trials_are_compared_after_r_times_powers_of_the_factor() -> None:
    compared = halving(after_epochs=2, factor=3)
    assert compared.goes_on(0, 2, {"accuracy": 0.9})
    # Worse than the first, but epochs 1 and 3 to 5 compare nobody.
    assert all(compared.goes_on(1, epoch, {"accuracy": 0.1}) for epoch in (1, 3, 4, 5))
    assert not compared.goes_on(1, 2, {"accuracy": 0.1})
    assert compared.goes_on(0, 6, {"accuracy": 0.9})
    assert not compared.goes_on(2, 6, {"accuracy": 0.8})


def test_the_best_third_of_those_that_got_there_goes_on() -> None:
    compared = halving()
    values = [0.5, 0.4, 0.6, 0.3, 0.55, 0.58]
    # One of up to five, then two of six: 0.58 is the second best.
    assert [compared.goes_on(number, 1, {"accuracy": value}) for number, value in enumerate(values)] == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]


def test_less_may_be_better() -> None:
    compared = halving(objective=Objective("loss", maximize=False))
    assert compared.goes_on(0, 1, {"loss": 2.0})
    assert compared.goes_on(1, 1, {"loss": 1.0})
    assert not compared.goes_on(2, 1, {"loss": 1.5})


def test_nan_is_behind_everybody() -> None:
    compared = halving()
    assert compared.goes_on(0, 1, {"accuracy": 0.0})
    assert not compared.goes_on(1, 1, {"accuracy": math.nan})


def test_a_trial_that_asks_again_counts_once() -> None:
    compared = halving(factor=2)
    assert [compared.goes_on(0, 1, {"accuracy": 0.5}) for _ in range(3)] == [True] * 3
    # Of two trials one goes on; of four it would be two.
    assert not compared.goes_on(1, 1, {"accuracy": 0.4})


def test_the_state_survives_json() -> None:
    compared, again = halving(), halving()
    for number, value in enumerate([0.5, math.nan, 0.7]):
        compared.goes_on(number, 1, {"accuracy": value})
    again.load_state_dict(json.loads(json.dumps(compared.state_dict(), allow_nan=False)))
    assert again.state_dict() == compared.state_dict()
    assert not again.goes_on(3, 1, {"accuracy": 0.6})


def test_a_metric_that_epochs_do_not_have_is_named() -> None:
    with pytest.raises(
        RunError, match=r"compares trials by 'accuracy', which is not measured.*\n.*did you mean 'acuracy'"
    ):
        halving().goes_on(0, 1, {"acuracy": 0.5})
