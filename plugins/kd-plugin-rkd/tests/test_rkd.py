"""`rkd` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_rkd import relations
from kd_plugin_rkd.loss import RKDLoss
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.errors import KdcoreError

from .textbook import rkd

GOLDEN = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads(Path(__file__).with_name("golden.json").read_text()).items()
}
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
stages:
  - name: only
    train: [student]
    losses:
      rkd: {type: rkd, inputs: {student: "student:0", teacher: "teacher:0"}}
"""


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


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); rkd relates samples .* needs 2 or more"):
        RKDLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        RKDLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        RKDLoss()(torch.zeros(4, 4), torch.zeros(4))


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    models = {
        name: nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        for name, width in (("student", 2), ("teacher", 5))
    }
    batch = {"input": torch.randn(6, 4), "target": torch.arange(6) % 3}
    out = (objective := build_objective(config, models=models, example_batch=batch))(batch)
    out.total.backward()
    expected = rkd(models["student"][0](batch["input"]), models["teacher"][0](batch["input"]))
    torch.testing.assert_close(out.terms["rkd"], expected.detach())
    assert models["student"][0].weight.grad.abs().sum() > 0
    with pytest.raises(KdcoreError, match="needs 2 or more"):
        objective({key: each[:1] for key, each in batch.items()})
