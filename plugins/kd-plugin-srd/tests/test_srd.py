"""`srd` against the formula, the value of an earlier system, and at its edges."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from kd_plugin_srd.loss import SRDLoss
from kd_plugin_srd.projector import SRDProjector
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.errors import WiringError

textbook = runpy.run_path(str(Path(__file__).with_name("textbook.py")))["srd"]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
LEARNED = ("student", "student_feature")


def batch(size: int = 5, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"student": (size, 7), "teacher": (size, 7), "student_feature": (size, 4), "teacher_feature": (size, 4)}
    drawn = {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}
    return {key: value.to(dtype).requires_grad_(key in LEARNED) for key, value in drawn.items()}


def gradients(value: Tensor, inputs: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, [inputs[key] for key in LEARNED]))


@pytest.mark.parametrize(
    "params", [{}, {"exponent": 1}, {"exponent": 2, "temperature": 3}, {"exponent": 3.5}, {"feature_weight": 0}]
)
@pytest.mark.parametrize("size", [5, 1])
def test_value_and_gradient_follow_the_formula(size: int, params: dict[str, Any]) -> None:
    inputs = batch(size)
    loss, expected = SRDLoss(**params)(**inputs), textbook(**inputs, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, inputs), gradients(expected, inputs))


def test_golden() -> None:
    inputs = {key: torch.tensor(value, dtype=torch.float64) for key, value in GOLDEN["inputs"].items()}
    for key in LEARNED:
        inputs[key].requires_grad_()
    loss = SRDLoss(reduction="batchmean")(**inputs)
    assert loss.item() == pytest.approx(GOLDEN["value"], rel=1e-10)
    for key, gradient in zip(LEARNED, gradients(loss, inputs), strict=True):
        torch.testing.assert_close(gradient, torch.tensor(GOLDEN["gradients"][key], dtype=torch.float64))


@pytest.mark.parametrize(("reduction", "factor"), [("batchmean", 1), ("sum", 5), ("elementwise_mean", 1 / 7)])
def test_the_reduction_is_that_of_the_logits(reduction: str, factor: float) -> None:
    inputs = batch()
    only_logits = SRDLoss(feature_weight=0)(**inputs)
    torch.testing.assert_close(SRDLoss(feature_weight=0, reduction=reduction)(**inputs), factor * only_logits)
    features = SRDLoss()(**inputs) - only_logits
    torch.testing.assert_close(SRDLoss(reduction=reduction)(**inputs), factor * only_logits + features)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("exponent", [1, 2, 4, 3.5])
def test_equality_is_finite_with_zero_gradient(exponent: float, dtype: torch.dtype) -> None:
    inputs = batch(dtype=dtype)
    same = {**inputs, "teacher": inputs["student"], "teacher_feature": inputs["student_feature"]}
    loss = SRDLoss(exponent)(**same)
    assert loss.item() == pytest.approx(2 * math.log(torch.finfo(dtype).tiny), rel=1e-5)
    for gradient in gradients(loss, inputs):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"teacher": (5, 9)}, r"student has shape \(5, 7\) but teacher has \(5, 9\).*same classes"),
        ({"student": (7,), "teacher": (7,)}, r"student has shape \(7,\); 2\+ dimensions"),
        ({"teacher_feature": (5, 6)}, r"student_feature has shape \(5, 4\) but teacher_feature has \(5, 6\)"),
        ({"student": (3, 7), "teacher": (3, 7)}, "student has 3 rows, student_feature has 5 rows"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SRDLoss()(**{**batch(), **{key: torch.zeros(shape) for key, shape in shapes.items()}})


CONFIG = """
version: 1
models: {student: {}, teacher: {}}
adapters:
  project: {type: srd_projector, inputs: {x: "student:0"}, like: "teacher:0"}
  standard: {type: srd_projector, params: {linear: false}, inputs: {x: "teacher:0"}}
stages:
  - name: distil
    train: [student, project]
    losses:
      srd: {type: srd, inputs: {student_feature: project, teacher_feature: standard}}
"""


def test_in_an_objective() -> None:
    models = {
        name: nn.Sequential(nn.Conv1d(2, width, 1), nn.Flatten(), nn.Linear(4 * width, 5))
        for name, width in (("student", 3), ("teacher", 6))
    }
    batch = {"input": torch.randn(6, 2, 4)}
    objective = build_objective(CONFIG, models=models, example_batch=batch)
    out = objective(batch)
    project = next(each for each in objective.modules() if isinstance(each, SRDProjector) and each.linear)
    assert project.layer is not None
    assert project.layer.weight.shape == (6, 3)
    maps = [models[name][0](batch["input"]) for name in ("student", "teacher")]
    logits = [models[name](batch["input"]) for name in ("student", "teacher")]
    expected = SRDLoss()(*logits, project(maps[0]), SRDProjector(linear=False)(maps[1]))
    torch.testing.assert_close(out.total, expected)
    out.total.backward()
    assert project.layer.weight.grad is not None
    objective.eval()
    torch.testing.assert_close(objective(batch).total, expected)
    with pytest.raises(WiringError, match=r"(?s)project.*needs 2 or more in a batch\n    raise batch_size; "):
        objective({"input": batch["input"][:1]})
