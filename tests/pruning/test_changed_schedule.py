"""A Pruner that goes on from a state under other groups than it was saved with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kdcore import Pruner
from kdcore.errors import RunError

GROUP = {"target_sparsity": 0.8, "prune_classifier": True, "schedule": {"type": "linear", "every": 5}}


def trained(network: nn.Module, pruner: Pruner, steps: int) -> list[float]:
    """Make steps that change nothing but masks; returns the sparsity after each."""
    found = []
    for _ in range(steps):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        pruner.before_optimizer()
        pruner.after_optimizer()
        found.append(pruner.sparsity().total)
    return found


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 10))


def gone_on(steps: int, before: int, after: int, **changes: Any) -> tuple[list[float], list[float], Pruner]:
    """Prune for `steps` of `before` steps, then go on as one of `after`."""
    model = network()
    first = Pruner(model, GROUP, total_steps=before)
    one = trained(model, first, steps)
    second = Pruner(model, {**GROUP, **changes}, total_steps=after)
    second.load_state_dict(first.state_dict())
    return one, trained(model, second, after - steps), second


def test_a_longer_schedule_takes_nothing_back() -> None:
    one, two, pruner = gone_on(40, before=40, after=200)
    assert one[-1] == two[0] == pytest.approx(0.8)
    assert two == [one[-1]] * len(two)
    assert pruner.completed


def test_a_longer_schedule_goes_on_from_what_is_pruned_by_its_own_course() -> None:
    one, two, _ = gone_on(12, before=40, after=80)
    whole = trained(model := network(), Pruner(model, GROUP, total_steps=80), 80)
    assert one[-1] > whole[12]
    rising = [max(one[-1], each) for each in whole[12:]]
    # Half of what pruning rounds to: one weight of 300.
    assert two == pytest.approx(rising, abs=1 / 300)
    assert two == sorted(two)


def test_what_a_schedule_had_come_to_is_saved() -> None:
    model = network()
    first = Pruner(model, GROUP, total_steps=40)
    trained(model, first, 12)
    second = Pruner(model, GROUP, total_steps=80)
    second.load_state_dict(first.state_dict())
    third = Pruner(model, GROUP, total_steps=80)
    third.load_state_dict(second.state_dict())
    assert trained(model, third, 4)[-1] >= first.sparsity().total > 0


def test_a_lower_target_is_in_force() -> None:
    _, two, _ = gone_on(12, before=40, after=80, target_sparsity=0.1)
    assert two[-1] == pytest.approx(0.1, abs=1 / 300)


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(RunError, match=r"the last masks are made in step 5, and pruning is at step 12: its target of"):
        gone_on(12, before=40, after=80, schedule={"type": "linear", "end": 5, "every": 5})
    with pytest.raises(RunError, match=r"the last masks are made in step 30, .* step 40: its target of 0\.9"):
        gone_on(40, before=40, after=41, target_sparsity=0.9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"criterion": "random"}, "criterion magnitude, and is now to go on with random"),
        ({"pattern": "1x2"}, "pattern 1x1, and is now to go on with 1x2"),
    ],
)
def test_other_scores_and_masks_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=f"pruning has begun with {said}, for which its masks"):
        gone_on(12, before=40, after=80, **changes)


def test_a_state_of_an_earlier_version_goes_on() -> None:
    model = network()
    first = Pruner(model, GROUP, total_steps=40)
    trained(model, first, 12)
    state = first.state_dict()
    for group in state["groups"]:
        del group["schedule"], group["settings"], group["least"]
    second = Pruner(model, GROUP, total_steps=40)
    second.load_state_dict(state)
    assert trained(model, second, 28)[-1] == pytest.approx(0.8)
