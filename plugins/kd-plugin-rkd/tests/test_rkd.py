"""`rkd` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_rkd import relations
from kd_plugin_rkd.loss import RKDLoss
from torch import Tensor

from .textbook import rkd

GOLDEN = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads(Path(__file__).with_name("golden.json").read_text()).items()
}


def features(batch: int = 7, *, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = scale * torch.randn(batch, 3, 2, generator=generator, dtype=dtype)
    return student.requires_grad_(), torch.randn(batch, 9, generator=generator, dtype=dtype)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("batch", [2, 3, 7])
@pytest.mark.parametrize("block", [1, 100, 2**17])
def test_value_and_gradient_are_the_textbooks(
    weights: tuple[float, float], reduction: str, batch: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "CPU_BLOCK", block)
    student, teacher = features(batch, scale=3)
    loss, expected = RKDLoss(*weights, reduction)(student, teacher), rkd(student, teacher, *weights, reduction)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = RKDLoss()(student, GOLDEN["teacher"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


def test_two_equal_samples_among_others_follow_the_textbook() -> None:
    student, teacher = features()
    student = torch.cat([student[:2], student[:2], student[4:]]).detach().requires_grad_()
    loss = RKDLoss()(student, teacher)
    torch.testing.assert_close(loss, rkd(student, teacher))
    assert gradient(loss, student).abs().max() < 1


def test_scale_and_shift_do_not_matter() -> None:
    student, teacher = features()
    torch.testing.assert_close(RKDLoss()(7 * student + 3, teacher / 5 - 1), RKDLoss()(student, teacher))


def test_float32_keeps_the_distance_of_close_samples_far_from_the_origin() -> None:
    student, teacher = features(dtype=torch.float32)
    student = student.detach() + 100
    student[1] = student[0] + 1e-3
    student.requires_grad_()
    exact = student.detach().double().requires_grad_()
    loss, expected = RKDLoss()(student, teacher), rkd(exact, teacher.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    wrong = gradient(loss, student).double() - gradient(expected, exact)
    assert wrong.norm() < 1e-3 * gradient(rkd(exact, teacher.double()), exact).norm()


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def close(case: str, distance: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    apart = torch.randn(20, 12, generator=generator)
    if case == "pair":
        return torch.cat([apart[:1] + distance * apart[1:2], apart[:1], apart[2:]])
    return apart[:4].repeat(5, 1) + distance * apart


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("case", ["pair", "clusters"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_float32_keeps_the_angles_at_close_samples(case: str, distance: float, side: str) -> None:
    features = {"student": close("pair", 1), "teacher": close("clusters", 1).sin(), side: close(case, distance)}
    student = features["student"].clone().requires_grad_()
    exact = features["student"].double().requires_grad_()
    loss, expected = RKDLoss()(student, features["teacher"]), rkd(exact, features["teacher"].double())
    assert error(loss.detach(), expected.detach()) < 1e-5
    assert error(gradient(loss, student), gradient(expected, exact)) < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1e10, 1e19, 1e25])
@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_float32_bears_features_of_any_magnitude(scale: float, weights: tuple[float, float]) -> None:
    plain, teacher = features(dtype=torch.float32)
    student = (scale * plain.detach()).requires_grad_()
    loss, expected = RKDLoss(*weights)(student, teacher * scale), RKDLoss(*weights)(plain, teacher)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    wanted = gradient(expected, plain) / scale
    torch.testing.assert_close(gradient(loss, student), wanted, rtol=1e-3, atol=float(1e-4 * wanted.abs().max()))


def test_compiled_or_not_the_loss_is_the_same() -> None:
    student, teacher = features(dtype=torch.float32)
    torch.compiler.reset()
    loss = torch.compile(RKDLoss(), backend="eager")(student, teacher)
    torch.testing.assert_close(loss, RKDLoss()(student, teacher))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); rkd relates samples .* needs 2 or more"):
        RKDLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        RKDLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        RKDLoss()(torch.zeros(4, 4), torch.zeros(4))


def test_a_loss_of_no_part_is_refused() -> None:
    with pytest.raises(
        ValueError, match="distance_weight and angle_weight are both 0, which teaches nothing: give one of them"
    ):
        RKDLoss(0, 0)
