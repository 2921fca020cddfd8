"""`cwd` against the paper's equation, and at its edges."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from kd_plugin_cwd.loss import CWDLoss
from torch import Tensor

TEXTBOOK = runpy.run_path(str(Path(__file__).with_name("textbook.py")))


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("form", ["cwd", "cwd_at_once"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 2, 2, 4), (1, 4, 2, 3, 2)])
def test_value_and_gradient_follow_the_paper(form: str, shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = maps(*shape)
    loss, expected = CWDLoss(temperature)(student, teacher), TEXTBOOK[form](student, teacher, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_the_paper_sums_what_a_uniform_student_leaves() -> None:
    """Against a uniform student, the divergence of a channel is log n minus its entropy."""
    _, teacher = maps(1, 1, 6)
    p = (teacher / 4).softmax(-1)
    expected = 16 * (torch.tensor(6.0).double().log() + (p * p.log()).sum())
    torch.testing.assert_close(CWDLoss()(torch.full_like(teacher, 7.0), teacher), expected)


def test_an_offset_of_a_channel_does_not_matter() -> None:
    student, teacher = maps(2, 3, 4, 4)
    offset = torch.arange(3.0).view(1, 3, 1, 1)
    torch.testing.assert_close(CWDLoss()(student + offset, teacher - offset), CWDLoss()(student, teacher))


def test_large_activations_are_finite() -> None:
    student, teacher = maps(2, 3, 4, 4, dtype=torch.float32)
    loss = CWDLoss()(1e4 * student, 1e4 * teacher)
    assert loss.isfinite()
    assert gradient(loss, student).isfinite().all()


def test_one_position_is_all_there_is() -> None:
    assert CWDLoss()(torch.zeros(1, 2, 1), torch.ones(1, 2, 1)).item() == 0


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((2, 3, 4, 4), (2, 3, 8, 8), r"student has shape \(2, 3, 4, 4\) but teacher has \(2, 3, 8, 8\).*adapter"),
        ((2, 3, 4, 4), (2, 5, 4, 4), r"teacher has \(2, 5, 4, 4\)"),
        ((2, 3), (2, 3), r"student has shape \(2, 3\); 3 to 5 dimensions"),
    ],
)
def test_shapes_that_do_not_fit(student: Any, teacher: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CWDLoss()(torch.zeros(student), torch.zeros(teacher))
