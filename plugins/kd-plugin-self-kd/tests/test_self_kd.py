"""`self_kd` against the definitions, the values of an earlier system, and at its edges."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from kd_plugin_self_kd.loss import SelfKDLoss
from torch import Tensor, nn

from kdcore import build_objective, load_config
from kdcore.errors import ConfigError, WiringError

textbook = runpy.run_path(str(Path(__file__).with_name("textbook.py")))["self_kd"]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def exits(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize(
    ("divergence", "temperature"), [("cross_entropy", 1), ("cross_entropy", 3), ("kl", 3), ("l2", 1)]
)
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (1, 4)])
def test_value_and_gradient_follow_the_definition(shape: tuple[int, ...], divergence: str, temperature: float) -> None:
    student, teacher = exits(*shape)
    loss = SelfKDLoss(divergence, temperature)(student, teacher)
    expected = textbook(student, teacher, divergence, temperature).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["tag"])
def test_golden(case: dict[str, Any]) -> None:
    """That system's L2 is the root of ours; it counted the first of n groups n times, the next n - 1 times."""
    outputs = {key: torch.tensor(value, dtype=torch.float64) for key, value in case["outputs"].items()}
    shallow = [key for key in outputs if key in case["gradients"]]
    for key in shallow:
        outputs[key].requires_grad_()
    total = torch.full((), case["origin"], dtype=torch.float64)
    for place, group in enumerate(case["groups"]):
        times = len(case["groups"]) - place
        for student, teacher in group["pairs"]:
            value = SelfKDLoss(group["divergence"], group["temperature"], group["reduction"])(
                outputs[student], outputs[teacher]
            )
            root = value.sqrt() if group["divergence"] == "l2" else value
            total = total + times * group["weight"] * root
    assert total.item() == pytest.approx(case["loss"], rel=1e-6)  # it kept the sum in float32
    for key, gradient in zip(shallow, torch.autograd.grad(total, [outputs[key] for key in shallow]), strict=True):
        expected = torch.tensor(case["gradients"][key], dtype=torch.float64)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("reduction", "divisor"), [("mean", 6), ("batchmean", 2), ("sum", 1), ("elementwise_mean", 42)]
)
def test_reductions_of_distributions(reduction: str, divisor: int) -> None:
    student, teacher = exits(2, 3, 7)
    loss = SelfKDLoss(reduction=reduction)(student, teacher)
    torch.testing.assert_close(loss, textbook(student, teacher).sum() / divisor)


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 2), ("sum", 1), ("elementwise_mean", 42)])
def test_reductions_of_features(reduction: str, divisor: int) -> None:
    student, teacher = exits(2, 3, 7)
    loss = SelfKDLoss("l2", reduction=reduction)(student, teacher)
    torch.testing.assert_close(loss, ((student - teacher) ** 2).sum() / divisor)


def test_tokens_return_sum_and_count() -> None:
    student, teacher = exits(2, 3, 7)
    loss = SelfKDLoss(reduction="tokens")
    total, count = loss(student, teacher)
    torch.testing.assert_close(total, textbook(student, teacher).sum())
    assert count == 6
    assert loss.count(target=torch.zeros(2, 3)) is None


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((2, 7), (2, 9), r"student has shape \(2, 7\) but teacher has \(2, 9\).*same classes"),
        ((2, 3, 4, 4), (2, 3, 2, 2), r"\(2, 3, 4, 4\) but teacher has \(2, 3, 2, 2\).*an adapter"),
        ((), (), r"student has shape \(\); 1\+ dimensions"),
    ],
)
def test_shapes_that_do_not_fit(student: Any, teacher: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfKDLoss()(torch.zeros(student), torch.zeros(teacher))


def test_l2_has_no_temperature() -> None:
    with pytest.raises(ValueError, match="temperature is for cross_entropy and kl, not for l2"):
        SelfKDLoss("l2", temperature=2)


def test_a_config_is_told_of_a_temperature_that_nothing_uses() -> None:
    text = CONFIG.replace("{type: self_kd,", "{type: self_kd, params: {divergence: l2, temperature: 3},")
    with pytest.raises(ConfigError, match=r"(?s)losses\.self\.params\.temperature.*not for l2"):
        load_config(text, external_models=["student"])


CONFIG = """
version: 1
models: {student: {}}
adapters:
  early: {type: linear, inputs: {x: "student:0"}, like: student}
stages:
  - name: self
    train: [student, early]
    losses:
      ce: cross_entropy
      self: {type: self_kd, inputs: {student: early, teacher: student}}
"""


def test_in_an_objective() -> None:
    models = {"student": nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))}
    batch = {"input": torch.randn(5, 4), "target": torch.arange(5) % 3}
    objective = build_objective(CONFIG, models=models, example_batch=batch)
    out = objective(batch)
    early = [each for name, each in objective.named_parameters() if "early" in name]
    assert len(early) == 2
    out.total.backward()
    assert all(each.grad is not None and each.grad.any() for each in early)
    wrong = CONFIG.replace("student: early", 'student: "student:0"').replace("[student, early]", "[student]")
    with pytest.raises(WiringError, match=r"(?s)term 'self'.*\(5, 6\) but teacher has \(5, 3\)"):
        build_objective(wrong, models=models, example_batch=batch)
