"""`logit_std_kd` against the paper's algorithm, the value of an earlier system, and at its edges."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kd_plugin_logit_std.loss import LogitStdKDLoss
from torch import Tensor

textbook = runpy.run_path(str(Path(__file__).with_name("textbook.py")))["logit_std_kd"]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize(("shape", "dim"), [((5, 7), -1), ((2, 3, 7), -1), ((2, 7, 3), 1), ((7,), -1), ((4, 2), -1)])
def test_value_and_gradient_follow_the_paper(shape: tuple[int, ...], dim: int, temperature: float) -> None:
    student, teacher = logits(*shape)
    loss = LogitStdKDLoss(temperature=temperature, dim=dim)(student, teacher)
    expected = textbook(student, teacher, temperature, dim).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden_with_hard_labels() -> None:
    student = torch.tensor(GOLDEN["student"], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(GOLDEN["teacher"], dtype=torch.float64)
    soft = LogitStdKDLoss(temperature=GOLDEN["temperature"], reduction="batchmean")(student, teacher)
    hard = F.cross_entropy(student, torch.tensor(GOLDEN["targets"]))
    total = GOLDEN["alpha"] * hard + GOLDEN["beta"] * soft
    assert total.item() == pytest.approx(GOLDEN["value"], rel=1e-12)
    torch.testing.assert_close(gradient(total, student), torch.tensor(GOLDEN["gradient"], dtype=torch.float64))


@pytest.mark.parametrize(
    ("reduction", "divisor"), [("mean", 6), ("batchmean", 2), ("sum", 1), ("elementwise_mean", 42)]
)
def test_reductions(reduction: str, divisor: int) -> None:
    student, teacher = logits(2, 3, 7)
    loss = LogitStdKDLoss(reduction=reduction)(student, teacher)
    torch.testing.assert_close(loss, textbook(student, teacher).sum() / divisor)


def test_tokens_return_sum_and_count() -> None:
    student, teacher = logits(2, 3, 7)
    loss = LogitStdKDLoss(reduction="tokens")
    total, count = loss(student, teacher)
    torch.testing.assert_close(total, textbook(student, teacher).sum())
    assert count == 6
    assert loss.count(target=torch.zeros(2, 3)) is None


def test_without_scaling_the_factor_is_gone() -> None:
    student, teacher = logits(4, 7)
    scaled = LogitStdKDLoss(temperature=3.0)(student, teacher)
    torch.testing.assert_close(
        LogitStdKDLoss(temperature=3.0, scale_by_temperature=False)(student, teacher), scaled / 9
    )


def test_offset_and_scale_of_the_logits_do_not_matter() -> None:
    student, teacher = logits(4, 7)
    loss = LogitStdKDLoss()
    torch.testing.assert_close(loss(10 * student + 7, teacher / 3 - 2), loss(student, teacher), rtol=1e-5, atol=0)


def test_a_large_offset_costs_little_accuracy() -> None:
    student, teacher = logits(64, 10, dtype=torch.float32)
    moved = (student.detach() + 1000).requires_grad_()
    loss, expected = LogitStdKDLoss()(moved, teacher), LogitStdKDLoss()(moved.double(), teacher.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient(loss, moved), gradient(expected, moved), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_logits_are_uniform_with_a_finite_gradient(value: float) -> None:
    student = torch.full((1, 7), value, requires_grad=True)
    _, teacher = logits(1, 7, dtype=torch.float32)
    loss = LogitStdKDLoss()(student, teacher)
    p = (teacher - teacher.mean()) / teacher.std() / 2
    torch.testing.assert_close(loss, 4 * F.kl_div(torch.full((1, 7), 1 / 7).log(), p.softmax(-1), reduction="sum"))
    assert gradient(loss, student).isfinite().all()
    assert LogitStdKDLoss()(student, student).item() == 0


@pytest.mark.parametrize("size", [2, 5, 7, 10, 11, 24, 96, 1000])
@pytest.mark.parametrize("value", [0.3, 1 / 3, -0.7, 1e3, 3e7 / 7])
@pytest.mark.parametrize("eps", [1e-7, 1e-12])
def test_what_rounding_leaves_of_equal_logits_is_no_deviation(size: int, value: float, eps: float) -> None:
    _, teacher = logits(4, size, dtype=torch.float32)
    student = torch.full((4, size), value, requires_grad=True)
    zeros = torch.zeros(4, size, requires_grad=True)
    loss, expected = LogitStdKDLoss(eps=eps)(student, teacher), LogitStdKDLoss(eps=eps)(zeros, teacher)
    torch.testing.assert_close(loss, expected)
    tolerance = max(1e-5, 1e-6 * value)  # The logits keep what rounding leaves, of which the deviation is 1.
    torch.testing.assert_close(gradient(loss, student), gradient(expected, zeros), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("student", "teacher", "dim", "message"),
    [
        ((2, 7), (2, 9), -1, r"student has shape \(2, 7\) but teacher has \(2, 9\).*same classes"),
        ((), (), -1, r"student has shape \(\); 1\+ dimensions"),
        ((2, 7), (2, 7), 2, r"student has shape \(2, 7\): there is no dimension dim=2"),
        ((2, 1), (2, 1), -1, r"\(2, 1\); a deviation needs two classes or more along dim=-1"),
    ],
)
def test_shapes_that_do_not_fit(student: Any, teacher: Any, dim: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogitStdKDLoss(dim=dim)(torch.zeros(student), torch.zeros(teacher))
