"""`at` against the paper's equation and the values of an earlier system."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from kd_plugin_at.loss import ATLoss
from torch import Tensor

from kdcore import create
from kdcore.errors import ConfigError

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


def features(
    *spatial: int, channels: tuple[int, int] = (3, 5), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, count, *spatial, generator=generator, dtype=dtype) for count in channels)
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


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("sides", ["student", "teacher", "both"])
def test_maps_of_zeros_are_finite(mode: str, p: float, sides: str) -> None:
    student, teacher = features(2, 3)
    student = student.detach() * (sides == "teacher")
    teacher = teacher * (sides == "student")
    student.requires_grad_()
    loss = ATLoss(mode, p)(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (loss == 0) == (sides == "both")


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_equality_is_zero_with_zero_gradient(mode: str) -> None:
    student, _ = features(2, 3)
    loss = ATLoss(mode)(student, student)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_scale_does_not_matter_and_a_batch_of_one_works() -> None:
    student, teacher = features(2, 3)
    loss = ATLoss()
    torch.testing.assert_close(loss(student * 7, teacher / 3), loss(student, teacher))
    torch.testing.assert_close(
        (loss(student[:1], teacher[:1]) + loss(student[1:], teacher[1:])) / 2, loss(student, teacher)
    )


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = features(2, 3)
    teacher.requires_grad_()
    ATLoss()(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (side.detach().to(dtype) for side in features(2, 3))
    large = 500 * student  # its squares are beyond float16
    loss = ATLoss()(large.requires_grad_(), teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ATLoss()(large.float(), teacher.float()), rtol=0, atol=0)
    loss.backward()
    assert large.grad is not None
    assert large.grad.dtype == dtype


def test_under_a_compiler() -> None:
    student, teacher = features(2, 3)
    compiled = torch.compile(ATLoss(), backend="aot_eager")
    torch.testing.assert_close(compiled(student, teacher), ATLoss()(student, teacher))


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


def test_wrong_params() -> None:
    with pytest.raises(ValueError, match="'cod'; it must be one of code, paper"):
        ATLoss(mode="cod")
    with pytest.raises(ValueError, match=r"p is 0\.5; it must be 1 or more"):
        ATLoss(p=0.5)


def test_create_builds_it_with_the_constructors_defaults() -> None:
    assert repr(create("loss", "at")) == repr(ATLoss())
    assert repr(create("loss", "at", mode="paper", p=1)) == repr(ATLoss("paper", 1))


@pytest.mark.parametrize(("param", "value"), [("mode", "cod"), ("modee", "code"), ("p", 0.5)])
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "at", **{param: value})
