"""What a skipped step did to buffers and extra state comes undone, however it did it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.engine.before_step import LARGEST_KEPT, BeforeStep
from kdcore.pipeline.probe import Keeper


class Holder(nn.Module):
    """Has a small buffer, a large one, one that is None, and extra state."""

    mean: Tensor | None
    bank: Tensor | None
    later: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.arange(3.0))
        self.register_buffer("bank", torch.ones(LARGEST_KEPT + 1))
        self.register_buffer("later", None)
        self.seen: dict[str, Any] = {"steps": [0], "sum": torch.zeros(2)}

    def get_extra_state(self) -> dict[str, Any]:
        return self.seen

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = state


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def before(holder: Holder) -> BeforeStep:
    found = BeforeStep(nn.ModuleDict({"loss": holder}))
    found.keep()
    return found


def spoil_in_place(holder: Holder) -> None:
    assert holder.mean is not None
    holder.mean.mul_(torch.nan)


def put_another(holder: Holder) -> None:
    assert holder.mean is not None
    holder.mean = 0.9 * holder.mean + torch.nan


def put_another_that_learns(holder: Holder) -> None:
    assert holder.mean is not None
    holder.mean = holder.mean * torch.ones(3, requires_grad=True)


def spoil_then_put_another(holder: Holder) -> None:
    spoil_in_place(holder)
    put_another(holder)


def take_away(holder: Holder) -> None:
    holder.mean = None


def reshape(holder: Holder) -> None:
    holder.mean = torch.zeros(2, 2)


def reshape_in_place(holder: Holder) -> None:
    assert holder.mean is not None
    holder.mean.data = torch.zeros(7)


SPOILING = [
    spoil_in_place,
    put_another,
    put_another_that_learns,
    spoil_then_put_another,
    take_away,
    reshape,
    reshape_in_place,
]


@pytest.mark.parametrize("spoil", SPOILING)
def test_a_small_buffer_comes_back(holder: Holder, before: BeforeStep, spoil: Any) -> None:
    first = holder.mean
    for _ in range(2):
        spoil(holder)
        before.put_back()
        assert holder.mean is not None
        assert torch.equal(holder.mean, torch.arange(3.0))
        if spoil is not reshape_in_place:
            # Whoever else holds the tensor sees its old values too.
            assert holder.mean is first


@pytest.mark.parametrize("spoil", SPOILING)
def test_what_came_between_two_steps_is_kept(holder: Holder, before: BeforeStep, spoil: Any) -> None:
    holder.mean = torch.full((5,), 7.0)  # of another shape, by a step that was made
    before.keep()
    holder.mean.add_(1)
    before.keep()
    (put_another if spoil is put_another_that_learns else spoil)(holder)
    before.put_back()
    assert holder.mean.tolist() == [8.0] * 5


def test_a_buffer_that_was_none_is_none_again(holder: Holder, before: BeforeStep) -> None:
    holder.later = torch.ones(2)
    before.put_back()
    assert holder.later is None
    holder.later = torch.ones(2)
    before.keep()
    holder.later = None
    before.put_back()
    assert holder.later is not None
    assert holder.later.tolist() == [1, 1]


def test_a_large_buffer_comes_back_unless_it_was_changed_in_place(holder: Holder, before: BeforeStep) -> None:
    bank = holder.bank
    assert bank is not None
    holder.bank = bank * torch.nan
    before.put_back()
    assert holder.bank is bank
    assert list(before.unsound()) == []
    holder.bank.mul_(torch.inf)
    before.put_back()
    assert list(before.unsound()) == ["loss.bank"]


def test_a_large_buffer_that_is_infinite_from_the_start_is_no_fault() -> None:
    holder = Holder()
    holder.bank = torch.full((LARGEST_KEPT + 1,), -torch.inf)
    before = BeforeStep(holder)
    before.keep()
    assert list(before.unsound()) == []


def test_extra_state_comes_back_as_often_as_it_is_wanted(holder: Holder, before: BeforeStep) -> None:
    for _ in range(2):
        holder.seen["steps"].append(1)
        holder.seen["sum"] += torch.nan
        before.put_back()
        assert holder.seen["steps"] == [0]
        assert holder.seen["sum"].tolist() == [0, 0]


def test_large_extra_state_is_left_alone(holder: Holder, before: BeforeStep) -> None:
    holder.seen = {"bank": torch.zeros(LARGEST_KEPT + 1)}
    before.keep()
    holder.seen["bank"][0] = 1
    before.put_back()
    assert holder.seen["bank"][0] == 1


def test_a_module_that_only_tells_its_extra_state_is_left_alone() -> None:
    class Tells(nn.Module):
        def get_extra_state(self) -> Any:
            raise AssertionError("it is asked when it is saved, and not in every step")

    before = BeforeStep(Tells())
    before.keep()
    before.put_back()


def test_a_probe_brings_back_a_buffer_that_its_pass_took_away(holder: Holder) -> None:
    keeper = Keeper()
    keeper.keep(holder)
    holder.mean = None
    keeper.restore()
    assert holder.mean is not None
    assert holder.mean.tolist() == [0, 1, 2]
