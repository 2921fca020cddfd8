"""`cckd` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_cckd.head import CCKDHead
from kd_plugin_cckd.loss import CCKDLoss
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import ConfigError, KdcoreError

from .textbook import cckd

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
      cckd: {type: cckd, inputs: {student: "student:0", teacher: "teacher:0"}}
"""


def features(batch: int = 7, *, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = scale * torch.randn(batch, 3, 2, generator=generator, dtype=dtype)
    return student.requires_grad_(), torch.randn(batch, 9, generator=generator, dtype=dtype)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize(
    "params",
    [{}, {"kernel": "bilinear"}, {"gamma": 1.5, "max_p": 5}, {"normalize": False, "max_p": 1, "reduction": "sum"}],
)
@pytest.mark.parametrize("batch", [2, 7])
def test_value_and_gradient_are_the_textbooks(params: dict[str, object], batch: int) -> None:
    student, teacher = features(batch)
    loss, expected = CCKDLoss(**params)(student, teacher), cckd(student, teacher, **params)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_golden_whose_norm_is_not_squared() -> None:
    student = GOLDEN["student"].clone().requires_grad_()
    loss = CCKDLoss(normalize=False, reduction="sum")(student, GOLDEN["teacher"]).sqrt() / len(student) ** 2
    torch.testing.assert_close(loss, GOLDEN["value"])
    torch.testing.assert_close(gradient(loss, student), GOLDEN["grad"])


@pytest.mark.parametrize(
    "params",
    [{}, {"kernel": "bilinear"}, {"gamma": 1.5, "max_p": 5}, {"normalize": False, "max_p": 1, "reduction": "sum"}],
)
def test_gradcheck(params: dict[str, object]) -> None:
    student, teacher = features(4)
    assert torch.autograd.gradcheck(lambda student: CCKDLoss(**params)(student, teacher), (student,))


def test_equality_is_zero_with_zero_gradient() -> None:
    student, _ = features()
    loss = CCKDLoss()(student, student)
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
    loss = CCKDLoss()(student, teacher)
    assert loss.isfinite()
    assert gradient(loss, student).abs().max() < 10
    assert (loss == 0) == (sides == "both")


def test_order_does_not_matter_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = features()
    loss, order = (
        CCKDLoss()(student, teacher.requires_grad_()),
        torch.randperm(7, generator=torch.Generator().manual_seed(1)),
    )
    torch.testing.assert_close(CCKDLoss()(student[order], teacher[order]), loss)
    torch.testing.assert_close(CCKDLoss()(7 * student, teacher / 5), loss)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_float32_near_equality() -> None:
    student, _ = features(dtype=torch.float32)
    noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(2))
    teacher = student.detach() + 1e-3 * noise
    exact = student.detach().double().requires_grad_()
    loss, expected = CCKDLoss()(student, teacher), cckd(exact, teacher.double())
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(gradient(loss, student).double(), gradient(expected, exact), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (side.detach().to(dtype) for side in features(scale=300))
    loss = CCKDLoss()(student.requires_grad_(), teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CCKDLoss()(student.float(), teacher.float()), rtol=0, atol=0)
    assert gradient(loss, student).dtype == dtype


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(1, 4\); cckd .* needs 2 or more"):
        CCKDLoss()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        CCKDLoss()(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\); 2\+ dimensions"):
        CCKDLoss()(torch.zeros(4, 4), torch.zeros(4))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kernel": "rbf"}, "'rbf'; it must be one of gaussian, bilinear"),
        ({"gamma": 0}, "gamma is 0; it must be above 0"),
        ({"max_p": 0}, "max_p is 0; it must be 1 or more"),
        ({"reduction": "mean"}, "'mean'; it must be one of batchmean, sum"),
    ],
)
def test_wrong_params(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CCKDLoss(**params)


@pytest.mark.parametrize(
    ("param", "value"), [("kernel", "rbf"), ("gama", 1), ("gamma", 0), ("max_p", 0), ("reduction", "mean")]
)
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "cckd", **{param: value})


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
    expected = cckd(models["student"][0](batch["input"]), models["teacher"][0](batch["input"]))
    torch.testing.assert_close(out.terms["cckd"], expected.detach())
    assert models["student"][0].weight.grad.abs().sum() > 0
    with pytest.raises(KdcoreError, match="needs 2 or more"):
        objective({key: each[:1] for key, each in batch.items()})


def facts(x: tuple[int, ...], like: tuple[int, ...] | None = None) -> Facts:
    described = None if like is None else TensorFacts(like, torch.float32)
    return Facts(inputs={"x": TensorFacts(x, torch.float32)}, like=described)


def test_the_head_takes_its_sizes_from_x_and_like() -> None:
    head = CCKDHead()
    head.setup(facts((5, 3, 2, 2), (5, 7)))
    weight = head.linear.weight
    assert head(torch.randn(4, 3, 2, 2)).shape == (4, 7)
    head.setup(facts((9, 3, 2, 2), (9, 7)))
    assert head.linear.weight is weight
    with pytest.raises(ValueError, match="leads from 12 to 7 numbers and cannot change to 12 and 8"):
        head.setup(facts((5, 12), (5, 8)))


def test_explicit_sizes_of_the_head_override() -> None:
    head = CCKDHead(in_features=12, out_features=6)
    head.setup(facts((5, 3, 2, 2), (5, 7)))
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(head(x), nn.functional.linear(x.flatten(1), head.linear.weight, head.linear.bias))
    again = CCKDHead(12, 6)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(x), head(x))


def test_a_head_that_lacks_a_size() -> None:
    with pytest.raises(ValueError, match="does not know its out_features; give like:"):
        CCKDHead().setup(facts((5, 3)))
    with pytest.raises(ValueError, match="does not know its in_features; bind x"):
        CCKDHead(out_features=3).setup(Facts())
    with pytest.raises(ValueError, match="in_features is 4 but x has 3 numbers per sample"):
        CCKDHead(4, 2).setup(facts((5, 3)))
    with pytest.raises(ValueError, match="used before setup"):
        CCKDHead()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="out_features must be 1 or more, found 0"):
        CCKDHead(out_features=0)


def test_create_refuses_a_head_of_no_features() -> None:
    with pytest.raises(ConfigError, match="out_features"):
        create("adapter", "cckd_head", out_features=0)


def test_the_head_learns_with_the_student(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    text = SMALL.replace('student: "student:0"', "student: head").replace("[student]", "[student, head]")
    config.write_text(text + 'adapters: {head: {type: cckd_head, inputs: {x: "student:0"}, like: "teacher:0"}}\n')
    models = {
        name: nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        for name, width in (("student", 2), ("teacher", 5))
    }
    batch = {"input": torch.randn(6, 4), "target": torch.arange(6) % 3}
    objective = build_objective(config, models=models, example_batch=batch)
    objective(batch).total.backward()
    learned = {key: each for key, each in objective.named_trainable() if "head" in key}
    assert learned
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learned.values())
