"""`skd_direction` against the paper's formula, the value of an earlier system, and at its edges."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kd_plugin_skd.loss import SKDDirectionLoss
from torch import Tensor

textbook = runpy.run_path(str(Path(__file__).with_name("textbook.py")))["skd_direction"]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def logits(batch: int, *classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = classes if len(classes) == 2 else classes * 2
    student, teacher = (torch.randn(batch, count, generator=generator, dtype=torch.float64) for count in both)
    return student.requires_grad_(), teacher


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("tikhonov", [0.01, 0.1, 10])
@pytest.mark.parametrize(("batch", "classes"), [(6, (4,)), (2, (5,)), (5, (3, 7)), (3, (20,))])
def test_value_and_gradient_follow_the_paper(batch: int, classes: tuple[int, ...], tikhonov: float) -> None:
    student, teacher = logits(batch, *classes)
    loss, expected = SKDDirectionLoss(tikhonov)(student, teacher), textbook(student, teacher, tikhonov)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden() -> None:
    student = torch.tensor(GOLDEN["student"], dtype=torch.float64, requires_grad=True)
    loss = SKDDirectionLoss()(student, torch.tensor(GOLDEN["teacher"], dtype=torch.float64))
    assert loss.item() == pytest.approx(GOLDEN["value"], rel=1e-10)
    torch.testing.assert_close(gradient(loss, student), torch.tensor(GOLDEN["gradient"], dtype=torch.float64))


def test_with_a_large_tikhonov_it_is_the_plain_distance() -> None:
    student, teacher = logits(6, 4)
    rows = [F.normalize(each) for each in (student, teacher)]
    plain = (rows[0] @ rows[0].T - rows[1] @ rows[1].T).norm(dim=1).mean()
    torch.testing.assert_close(SKDDirectionLoss(1e6)(student, teacher) * 1e3, plain, rtol=1e-5, atol=0)


def test_lengths_and_rotations_do_not_matter() -> None:
    student, teacher = logits(6, 4)
    lengths = torch.arange(1.0, 7).double()[:, None]
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    loss = SKDDirectionLoss()
    torch.testing.assert_close(loss(lengths * student @ rotation, teacher), loss(student, teacher))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((1, 7), (1, 7), r"student has shape \(1, 7\); skd_direction compares samples.*needs 2 or more in a batch"),
        ((2, 7), (3, 7), "student has 2 rows, teacher has 3 rows"),
        ((7,), (7,), r"student has shape \(7,\); 2\+ dimensions"),
    ],
)
def test_shapes_that_do_not_fit(student: Any, teacher: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SKDDirectionLoss()(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_samples_orthogonal_to_all_others_get_no_gradient_from_rounding(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # So few features are above 0 that some samples share none with any other.
    student, teacher = ((torch.randn(32, 256, generator=generator) - 2.5).relu() for _ in range(2))
    exact = student.double().requires_grad_()
    student.requires_grad_()
    loss, expected = SKDDirectionLoss()(student, teacher), SKDDirectionLoss()(exact, teacher.double())
    found, wanted = gradient(loss, student).double(), gradient(expected, exact)
    assert (found - wanted).norm() < 1e-5 * wanted.norm()
