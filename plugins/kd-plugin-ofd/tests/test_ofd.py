"""`ofd` against the paper's equations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kd_plugin_ofd.loss import OFDLoss, channel_margins
from torch import Tensor, nn

import kdcore
from kdcore.contracts import Facts
from kdcore.errors import WiringError

from . import textbook


def features(*shape: int) -> tuple[Tensor, Tensor, nn.Module]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(shape[1], dtype=torch.float64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    student, teacher = (torch.randn(*shape, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher, norm


@pytest.mark.parametrize("shape", [(3, 4, 2, 2), (1, 5, 3), (4, 6)])
def test_value_and_gradient_follow_the_textbook(shape: tuple[int, ...]) -> None:
    student, teacher, norm = features(*shape)
    value, expected = OFDLoss()(student, teacher, norm), textbook.ofd(student, teacher, norm)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (value, expected)))


def test_the_rule_case_by_case() -> None:
    norm = nn.BatchNorm1d(1, affine=False)  # margin -0.798
    teacher = torch.tensor([[-2.0], [-2.0], [-0.5], [-0.5], [1.0], [1.0]])
    student = torch.tensor([[-0.9], [-0.7], [-3.0], [0.5], [-1.0], [3.0]])
    mean = -0.7978845608
    expected = (0 + (-0.7 - mean) ** 2 + 0 + 1.0 + 4.0 + 4.0) / 6
    assert OFDLoss()(student, teacher, norm).item() == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("z", [-3.0, -0.5, 0.0, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_margins_are_the_mean_of_what_is_negative(z: float, scale: float, dtype: torch.dtype) -> None:
    norm = nn.BatchNorm2d(1, dtype=dtype)
    nn.init.constant_(norm.weight, -scale)
    nn.init.constant_(norm.bias, z * scale)
    # The difference of nearly equal numbers costs digits that float32 does not have, relative to the shift.
    tolerance = {"rel": 1e-9} if dtype == torch.float64 else {"abs": 2e-6 * scale * max(1, abs(z))}
    found = channel_margins(norm, torch.zeros(1, dtype=dtype)).item()
    assert found == pytest.approx(textbook.margin(z * scale, scale), **tolerance)


@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0, 1e4])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-3, 1e4])
def test_any_norm_has_finite_margins(shift: float, scale: float) -> None:
    norm = nn.BatchNorm2d(1)
    nn.init.constant_(norm.weight, scale)
    nn.init.constant_(norm.bias, shift)
    margin = channel_margins(norm, torch.zeros(1)).item()
    assert -1e5 < margin <= 0
    if scale < 1e-6:
        assert margin == pytest.approx(min(shift, 0), abs=1e-6)


def test_the_norm_gets_no_gradient() -> None:
    student, teacher, norm = features(2, 3, 2, 2)
    OFDLoss()(student, teacher, norm).backward()
    assert norm.weight.grad is None
    assert norm.bias.grad is None


@pytest.mark.parametrize("norm", [nn.Conv2d(3, 3, 1), nn.Linear(3, 3), nn.ReLU()])
def test_what_is_no_norm(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"norm is a {type(norm).__name__}; a batch norm is needed"):
        OFDLoss()(torch.zeros(2, 3), torch.zeros(2, 3), norm)
    with pytest.raises(ValueError, match="with @module"):
        OFDLoss().setup(Facts(inputs={"norm": norm}))


def test_inputs_that_do_not_fit() -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match=r"student has shape \(2, 3\) but teacher has \(2, 4\)"):
        OFDLoss()(torch.zeros(2, 3), torch.zeros(2, 4), norm)
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 3\) but norm has 4 channels"):
        OFDLoss()(torch.zeros(2, 3), torch.zeros(2, 3), norm)


CONFIG = """
version: 1
name: tiny
models: {teacher: {}, student: {}}
stages:
  - name: distilled
    train: [student]
    losses:
      ofd: {type: ofd, inputs: {student: student:1, teacher: teacher:1, norm: teacher:NORM@module}}
"""


def objective_for(tmp_path: Path, norm: str) -> tuple[kdcore.Objective, dict[str, Tensor]]:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.replace("NORM", norm))
    torch.manual_seed(0)
    models = {name: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU()) for name in ("teacher", "student")}
    batch = {"input": torch.randn(3, 1, 6, 6)}
    return kdcore.build_objective(file, models=models, example_batch=batch), batch


def test_in_a_config(tmp_path: Path) -> None:
    objective, batch = objective_for(tmp_path, "1")
    objective(batch).total.backward()
    learned = [name for name, each in objective.named_trainable() if each.grad is not None and each.grad.any()]
    assert learned
    assert all("student." in name for name in learned)
    with pytest.raises(WiringError, match=r"term 'ofd'.*norm is a Conv2d"):
        objective_for(tmp_path, "0")
