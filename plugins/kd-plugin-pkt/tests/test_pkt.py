"""`pkt` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_pkt.loss import PKTLoss
from torch import Tensor

from .textbook import pkt

GOLDEN = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads(Path(__file__).with_name("golden.json").read_text()).items()
}


def features(batch: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, 3, 2, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), torch.randn(batch, 9, generator=generator, dtype=torch.float64)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize("params", [{}, {"eps": 1e-3}])
@pytest.mark.parametrize("batch", [2, 7])
def test_value_and_gradient_are_the_textbooks(params: dict[str, object], batch: int) -> None:
    student, teacher = features(batch)
    loss, expected = PKTLoss(**params)(student, teacher), pkt(student, teacher, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = PKTLoss()(student, GOLDEN["teacher"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


def test_scale_does_not_matter() -> None:
    student, teacher = features()
    torch.testing.assert_close(PKTLoss()(7 * student, teacher / 5), PKTLoss()(student, teacher))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); pkt .* needs 2 or more"):
        PKTLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        PKTLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        PKTLoss()(torch.zeros(4, 4), torch.zeros(4))


@pytest.mark.parametrize("size", [1, 5, 24, 96, 1000])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_opposite_samples_leave_nothing_to_choose_but_the_loss_finite(size: int, side: str) -> None:
    """Their cosine is -1, and in float32 less."""
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(24, 5, generator=generator) for name in ("student", "teacher")}
    features[side] = torch.randn(24, 1, generator=generator).expand(24, size)
    student = features["student"].clone().requires_grad_()
    loss = PKTLoss()(student, features["teacher"])
    expected = PKTLoss()(student.detach().double(), features["teacher"].double())
    torch.testing.assert_close(loss.double(), expected, rtol=0.05, atol=0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
