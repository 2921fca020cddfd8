"""`spkd` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_spkd.loss import SPKDLoss
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.errors import ConfigError, KdcoreError

from .textbook import spkd

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
      spkd: {type: spkd, inputs: {student: "student:0", teacher: "teacher:0"}}
"""


def features(batch: int = 7, *, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = scale * torch.randn(batch, 3, 2, generator=generator, dtype=dtype)
    return student.requires_grad_(), torch.randn(batch, 9, generator=generator, dtype=dtype)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize("params", [{}, {"normalize": "l1"}, {"reduction": "sum"}])
@pytest.mark.parametrize("batch", [2, 7])
def test_value_and_gradient_are_the_textbooks(params: dict[str, object], batch: int) -> None:
    student, teacher = features(batch)
    loss, expected = SPKDLoss(**params)(student, teacher), spkd(student, teacher, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = SPKDLoss(normalize="l1")(student, GOLDEN["teacher"])
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


@pytest.mark.parametrize("params", [{}, {"normalize": "l1"}, {"reduction": "sum"}])
def test_gradcheck(params: dict[str, object]) -> None:
    student, teacher = features(4)
    assert torch.autograd.gradcheck(lambda student: SPKDLoss(**params)(student, teacher), (student,))


def test_equality_is_zero_with_zero_gradient() -> None:
    student, _ = features()
    loss = SPKDLoss()(student, student)
    assert loss.item() == 0
    torch.testing.assert_close(gradient(loss, student), torch.zeros_like(student), rtol=0, atol=1e-15)


@pytest.mark.parametrize("sides", ["student", "teacher", "both", "one sample"])
def test_zeros_are_finite_and_pull_gently(sides: str) -> None:
    student, teacher = features()
    if sides == "one sample":
        student = torch.cat([student[:1] * 0, student[1:]])
    else:
        student, teacher = student * (sides == "teacher"), teacher * (sides == "student")
    student = student.detach().requires_grad_()
    loss = SPKDLoss()(student, teacher)
    assert loss.isfinite()
    assert gradient(loss, student).abs().max() < 10
    assert (loss == 0) == (sides == "both")


def test_order_does_not_matter_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = features()
    loss, order = (
        SPKDLoss()(student, teacher.requires_grad_()),
        torch.randperm(7, generator=torch.Generator().manual_seed(1)),
    )
    torch.testing.assert_close(SPKDLoss()(student[order], teacher[order]), loss)
    torch.testing.assert_close(SPKDLoss()(7 * student, teacher / 5), loss)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_float32_near_equality() -> None:
    student, _ = features(dtype=torch.float32)
    noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(2))
    teacher = student.detach() + 1e-3 * noise
    exact = student.detach().double().requires_grad_()
    loss, expected = SPKDLoss()(student, teacher), spkd(exact, teacher.double())
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(gradient(loss, student).double(), gradient(expected, exact), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (side.detach().to(dtype) for side in features(scale=300))
    loss = SPKDLoss()(student.requires_grad_(), teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, SPKDLoss()(student.float(), teacher.float()), rtol=0, atol=0)
    assert gradient(loss, student).dtype == dtype


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); spkd .* needs 2 or more"):
        SPKDLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        SPKDLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        SPKDLoss()(torch.zeros(4, 4), torch.zeros(4))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"normalize": "l3"}, "'l3'; it must be one of l2, l1"),
        ({"reduction": "mean"}, "'mean'; it must be one of batchmean, sum"),
    ],
)
def test_wrong_params(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPKDLoss(**params)


@pytest.mark.parametrize(("param", "value"), [("normalize", "l3"), ("normalise", "l2"), ("reduction", "mean")])
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "spkd", **{param: value})


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    models = {
        name: nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        for name, width in (("student", 2), ("teacher", 5))
    }
    batch = {"input": torch.randn(6, 4), "target": torch.arange(6) % 3}
    objective = build_objective(config, models=models, example_batch=batch)
    out = objective(batch)
    out.total.backward()
    expected = spkd(models["student"][0](batch["input"]), models["teacher"][0](batch["input"]))
    torch.testing.assert_close(out.terms["spkd"], expected.detach())
    assert models["student"][0].weight.grad.abs().sum() > 0
    with pytest.raises(KdcoreError, match="needs 2 or more"):
        objective({key: each[:1] for key, each in batch.items()})
