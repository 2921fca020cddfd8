"""`nst` against the paper's form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kd_plugin_nst.loss import NSTLoss
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.errors import ConfigError

from .textbook import nst

SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
stages:
  - name: only
    train: [student]
    losses:
      nst: {type: nst, inputs: {student: "student:0", teacher: "teacher:0"}}
"""


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        name: nn.Sequential(nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(16 * width, 3))
        for name, width in (("student", 3), ("teacher", 5))
    }


def batch_of(size: int) -> dict[str, Tensor]:
    return {"input": torch.randn(size, 1, 8, 8), "target": torch.arange(size) % 3}


KERNELS = ["polynomial", "linear", "gaussian"]


def features(
    *spatial: int, channels: tuple[int, int] = (3, 5), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, count, *spatial, generator=generator, dtype=dtype) for count in channels)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spatial", [(3,), (4, 4), (2, 1, 2)])
def test_value_and_gradient_are_the_textbooks(kernel: str, spatial: tuple[int, ...]) -> None:
    student, teacher = features(*spatial)
    loss, expected = NSTLoss(kernel)(student, teacher), nst(student, teacher, kernel)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spatial", [(3,), (4, 4)])
def test_gradcheck(kernel: str, spatial: tuple[int, ...]) -> None:
    student, teacher = features(*spatial)
    assert torch.autograd.gradcheck(lambda student: NSTLoss(kernel)(student, teacher), (student,))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spatial", [(3,), (4, 4)])
def test_equality_is_zero_with_zero_gradient(kernel: str, spatial: tuple[int, ...]) -> None:
    student, _ = features(*spatial)
    loss = NSTLoss(kernel)(student, student)
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient(loss, student), torch.zeros_like(student), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spatial", [(3,), (4, 4)])
@pytest.mark.parametrize("sides", ["student", "teacher", "both", "one channel"])
def test_zeros_are_finite_and_pull_gently(kernel: str, spatial: tuple[int, ...], sides: str) -> None:
    student, teacher = features(*spatial)
    if sides == "one channel":
        student = torch.cat([student[:, :1] * 0, student[:, 1:]], 1)
    else:
        student, teacher = student * (sides == "teacher"), teacher * (sides == "student")
    student = student.detach().requires_grad_()
    loss = NSTLoss(kernel)(student, teacher)
    assert loss.isfinite()
    assert gradient(loss, student).abs().max() < 10


def test_a_batch_is_the_mean_of_its_samples_and_channels_have_no_order() -> None:
    student, teacher = features(3, 3)
    loss = NSTLoss()
    alone = torch.stack([loss(student[index : index + 1], teacher[index : index + 1]) for index in range(4)])
    torch.testing.assert_close(loss(student, teacher), alone.mean())
    torch.testing.assert_close(loss(student.flip(1), 3 * teacher), loss(student, teacher))


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_near_equality(kernel: str) -> None:
    student, _ = features(4, 4, dtype=torch.float32)
    noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(2))
    teacher = student.detach() + 1e-2 * noise
    exact = student.detach().double().requires_grad_()
    loss, expected = NSTLoss(kernel)(student, teacher), nst(exact, teacher.double(), kernel)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(gradient(loss, student).double(), gradient(expected, exact), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (side.detach().to(dtype) for side in features(2, 3))
    large = (500 * student).requires_grad_()
    loss = NSTLoss()(large, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, NSTLoss()(large.float(), teacher.float()), rtol=0, atol=0)
    assert gradient(loss, large).dtype == dtype


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = features(2, 3)
    NSTLoss()(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) but teacher has \(2, 5, 8, 8\); nst needs maps of one"):
        NSTLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 8, 8))
    with pytest.raises(ValueError, match="student has 2 rows, teacher has 3 rows"):
        NSTLoss()(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 3\); 3 to 5 dimensions"):
        NSTLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="'rbf'; it must be one of polynomial, linear, gaussian"):
        NSTLoss("rbf")


@pytest.mark.parametrize(("param", "value"), [("kernel", "rbf"), ("kernal", "linear")])
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "nst", **{param: value})


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    models, batch = nets(), batch_of(4)
    out = build_objective(config, models=models, example_batch=batch)(batch)
    out.total.backward()
    expected = nst(models["student"][0](batch["input"]), models["teacher"][0](batch["input"]))
    torch.testing.assert_close(out.terms["nst"], expected.detach())
    assert models["student"][0].weight.grad.abs().sum() > 0
