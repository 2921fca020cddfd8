"""PAD against the paper's equation and the values of an earlier system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kd_plugin_pad.loss import PADL2Loss
from kd_plugin_pad.variance import PADVariance
from torch import Tensor

import kdcore
from kdcore.contracts import Facts, TensorFacts

from . import textbook

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)
INPUTS = ("student", "teacher", "log_variance")


def inputs(batch: int = 4, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(batch, 6, generator=generator, dtype=dtype).requires_grad_(name != "teacher")
        for name in INPUTS
    }


def gradients(value: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, [given["student"], given["log_variance"]])


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("batch", [1, 4])
def test_value_and_gradient_follow_the_textbook(batch: int, eps: float) -> None:
    given = inputs(batch)
    value, expected = PADL2Loss(eps)(**given), textbook.pad_l2(**given, eps=eps)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, given), gradients(expected, given))
    torch.testing.assert_close(PADL2Loss(eps, "sum")(**given), batch * expected)
    maps = {name: each.unflatten(1, (6, 1, 1)) for name, each in given.items()}
    assert torch.equal(PADL2Loss(eps)(**maps), value)


def test_golden() -> None:
    given = {name: GOLDEN[name].clone().requires_grad_(name != "teacher") for name in INPUTS}
    value = PADL2Loss()(**given)
    torch.testing.assert_close(value, GOLDEN["value"])
    torch.testing.assert_close(gradients(value, given), (GOLDEN["student_grad"], GOLDEN["log_variance_grad"]))


@pytest.mark.parametrize("log_variance", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_any_variance_is_finite(log_variance: float) -> None:
    given = inputs(dtype=torch.float32)
    given["log_variance"] = torch.full_like(given["student"], log_variance, requires_grad=True)
    value = PADL2Loss()(**given)
    assert value.isfinite()
    assert all(each.isfinite().all() for each in gradients(value, given))


def test_at_equality_the_variance_remains() -> None:
    given = inputs()
    value = PADL2Loss()(**{**given, "teacher": given["student"]})
    torch.testing.assert_close(value, given["log_variance"].mean())
    student, variance = gradients(value, given)
    assert not student.any()
    torch.testing.assert_close(variance, torch.full_like(variance, 1 / variance.numel()))


def test_inputs_that_do_not_fit() -> None:
    given = inputs()
    with pytest.raises(ValueError, match=r"student has shape \(4, 5\), teacher has shape \(4, 6\).*the adapter linear"):
        PADL2Loss()(**{**given, "student": torch.zeros(4, 5)})
    with pytest.raises(ValueError, match="student has 4 rows, teacher has 3 rows"):
        PADL2Loss()(**{**given, "teacher": torch.zeros(3, 6)})
    with pytest.raises(ValueError, match=r"log_variance has shape \(4,\); 2\+ dimensions"):
        PADL2Loss()(**{**given, "log_variance": torch.zeros(4)})


def test_the_branch() -> None:
    x, like = TensorFacts((4, 2, 3, 1), torch.float32), TensorFacts((4, 5), torch.float32)
    branch = PADVariance()
    with pytest.raises(ValueError, match="used before setup"):
        branch(torch.zeros(4, 6))
    with pytest.raises(ValueError, match="does not know its out_features; give like:"):
        branch.setup(Facts(inputs={"x": x}))
    branch.setup(Facts(inputs={"x": x}, like=like))
    branch.setup(Facts(inputs={"x": x}, like=like))
    features = torch.randn(4, 2, 3, 1)
    output = branch(features)
    linear = branch.body[0](features.flatten(1))
    torch.testing.assert_close(output, (linear - linear.mean(0)) / (linear.var(0, correction=0) + 1e-5).sqrt())
    with pytest.raises(
        ValueError, match=r"x has shape \(1, 6\); pad_variance normalises over the samples and needs 2 or more"
    ):
        branch(torch.zeros(1, 6))
    assert branch.eval()(torch.zeros(1, 6)).isfinite().all()
    with pytest.raises(ValueError, match=r"in_features is 7 but x has shape \(4, 2, 3, 1\): 6 a sample"):
        PADVariance(7, 5).setup(Facts(inputs={"x": x}))


CONFIG = """
version: 1
name: tiny
models: {teacher: {}, student: {}}
adapters:
  variance: {type: pad_variance, inputs: {x: student:0}, like: teacher:0}
stages:
  - name: distilled
    train: [student, variance]
    losses:
      pad: {type: pad_l2, inputs: {student: student:0, teacher: teacher:0, log_variance: variance}}
"""


def test_in_a_config(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG)
    models = {name: torch.nn.Sequential(torch.nn.Linear(4, 5)) for name in ("teacher", "student")}
    batch = {"input": torch.randn(3, 4)}
    objective = kdcore.build_objective(file, models=models, example_batch=batch)
    objective(batch).total.backward()
    learned = [name for name, each in objective.named_trainable() if each.grad is not None]
    assert len(learned) == 6
    assert not any("teacher." in name for name in learned)
