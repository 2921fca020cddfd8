"""`spkd` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_spkd.loss import SPKDLoss
from torch import Tensor

from .textbook import spkd

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


@pytest.mark.parametrize("params", [{}, {"normalize": "l1"}, {"reduction": "sum"}])
@pytest.mark.parametrize("batch", [2, 7])
def test_value_and_gradient_are_the_textbooks(params: dict[str, object], batch: int) -> None:
    student, teacher = features(batch)
    loss, expected = SPKDLoss(**params)(student, teacher), spkd(student, teacher, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = SPKDLoss(normalize="l1")(student, GOLDEN["teacher"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


def test_scale_does_not_matter() -> None:
    student, teacher = features()
    torch.testing.assert_close(SPKDLoss()(7 * student, teacher / 5), SPKDLoss()(student, teacher))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); spkd .* needs 2 or more"):
        SPKDLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        SPKDLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        SPKDLoss()(torch.zeros(4, 4), torch.zeros(4))
