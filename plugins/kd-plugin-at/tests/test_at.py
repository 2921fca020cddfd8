"""`at` against the paper's equation and the values of an earlier system."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from kd_plugin_at.loss import ATLoss
from torch import Tensor

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)


def textbook(student: Tensor, teacher: Tensor, mode: str, p: float) -> float:
    """The definition, sample by sample in Python numbers."""
    losses = []
    for one, other in zip(student.flatten(2), teacher.flatten(2), strict=True):
        maps = []
        for features in (one, other):
            raw = [sum(abs(value) ** p for value in column) for column in features.T.tolist()]
            norm = math.sqrt(sum(value**2 for value in raw))
            maps.append([value / norm for value in raw])
        squares = [(a - b) ** 2 for a, b in zip(*maps, strict=True)]
        losses.append(sum(squares) / len(squares) if mode == "code" else math.sqrt(sum(squares)))
    return sum(losses) / len(losses)


def features(*spatial: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, count, *spatial, generator=generator, dtype=torch.float64) for count in (3, 5))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 2, 2.5, 4])
@pytest.mark.parametrize("spatial", [(6,), (2, 3), (2, 1, 3)])
def test_value_follows_the_definition(mode: str, p: float, spatial: tuple[int, ...]) -> None:
    student, teacher = features(*spatial)
    assert ATLoss(mode, p)(student, teacher).item() == pytest.approx(textbook(student, teacher, mode, p), rel=1e-12)


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_gradcheck(mode: str, p: float) -> None:
    student, teacher = features(2, 3)
    assert torch.autograd.gradcheck(lambda student: ATLoss(mode, p)(student, teacher), (student,))


def test_golden_weighted_pairs() -> None:
    loss = ATLoss(GOLDEN["mode"])
    students = [pair["student"].clone().requires_grad_() for pair in GOLDEN["pairs"]]
    terms = [
        pair["weight"] * loss(student, pair["teacher"]) for pair, student in zip(GOLDEN["pairs"], students, strict=True)
    ]
    total = torch.stack(terms).sum()
    torch.testing.assert_close(total, GOLDEN["value"])
    for pair, gradient in zip(GOLDEN["pairs"], torch.autograd.grad(total, students), strict=True):
        torch.testing.assert_close(gradient, pair["grad"])


def test_scale_does_not_matter() -> None:
    student, teacher = features(2, 3)
    torch.testing.assert_close(ATLoss()(student * 7, teacher / 3), ATLoss()(student, teacher))


def test_other_resolution_names_both_and_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"\(2, 3, 4, 4\) but teacher has \(2, 5, 8, 8\); .*one resolution, or put a resize"
    ):
        ATLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 8, 8))


def test_other_batch_and_rank() -> None:
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        ATLoss()(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 3\); 3 to 5 dimensions"):
        ATLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3))
