"""What cannot be done is said, with the module that is the reason, and nothing is half done."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import kdcore
from kdcore.compaction.compact import NothingToRemoveError
from kdcore.errors import WiringError
from tests.compaction.nets import lively, zero_filters


class Middle(nn.Module):
    """Something between two layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), inner, nn.Linear(8, 3)
        lively(self)
        zero_filters(self.first, [2, 5])

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class ByCount(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[-1]


class ByValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 8).relu()


def test_no_zeros_at_all() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
    with pytest.raises(NothingToRemoveError, match="0 % of the weights are 0, but they make up no whole channel") as e:
        kdcore.compact(model, torch.randn(3, 4))
    assert "pattern: filter, input_channel or head" in e.value.problem.repair


def test_zeros_here_and_there() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
    with torch.no_grad():
        model[0].weight[:, ::2] *= torch.tensor([[0.0, 1.0]] * 8)
        model[0].weight[0, :3] = 0
    with pytest.raises(NothingToRemoveError, match="make up no whole channel, neuron or head"):
        kdcore.compact(model, torch.randn(3, 4))


def test_a_module_that_computes_with_the_number_of_channels() -> None:
    with pytest.raises(
        WiringError, match=r"differ from the masked model's by .* the first module that differs is 'inner'"
    ):
        kdcore.compact(Middle(ByCount()), torch.randn(4, 6))


def test_a_module_that_decides_by_values() -> None:
    with pytest.raises(WiringError, match=r"Middle cannot be traced: in 'inner' .*data-dependent") as e:
        kdcore.compact(Middle(ByValue()), torch.randn(4, 6))
    assert "must go, or be kept out of forward" in e.value.problem.repair


def test_nothing_is_printed_about_graphs(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WiringError):
        kdcore.compact(Middle(ByValue()), torch.randn(4, 6))
    assert capfd.readouterr() == ("", "")


def test_a_module_with_a_fixed_size_stays_and_the_rest_goes() -> None:
    model = nn.Sequential(Middle(Fixed()), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    zero_filters(model[1], [0])
    report = kdcore.compact(model, torch.randn(4, 6)).report
    assert [(each.module, each.after) for each in report.changes] == [("1", 5), ("3", 5)]
    (message,) = report.messages
    assert message.startswith("around 0.inner all sizes stay as they are, because a smaller one fails there: ")
    assert "shape '[4, 8]' is invalid" in message
    assert report.stay == {"0.first": 2}


def test_only_a_fixed_size_to_remove_from() -> None:
    with pytest.raises(NothingToRemoveError, match=r"whole outputs of first \(2\).*around inner all sizes stay"):
        kdcore.compact(Middle(Fixed()), torch.randn(4, 6))


def test_outputs_that_are_not_finite() -> None:
    model = Middle(nn.Identity())
    with torch.no_grad():
        model.last.bias[0] = float("nan")
    with pytest.raises(WiringError, match="the model's own output is not finite"):
        kdcore.compact(model, torch.randn(4, 6))


def test_a_tolerance_that_rounding_breaks_names_nothing_twice() -> None:
    model = lively(nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 3)))
    zero_filters(model[0], range(0, 300, 3))
    with pytest.raises(WiringError, match="more than 1e-12"):
        kdcore.compact(model, torch.randn(50, 64), tolerance=1e-12)
