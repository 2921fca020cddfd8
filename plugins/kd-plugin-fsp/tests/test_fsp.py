"""`fsp` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_fsp.loss import FSPLoss
from torch import Tensor, nn

from kdcore import build_objective, create
from kdcore.errors import ConfigError

from .textbook import fsp

RAW = json.loads(Path(__file__).with_name("golden.json").read_text())
SMALL = """
version: 1
name: small
models: {student: {}, teacher: {}}
adapters:
  first: {type: conv1x1, inputs: {x: "student:0"}, like: "teacher:0"}
  second: {type: conv1x1, inputs: {x: "student:1"}, like: "teacher:1"}
stages:
  - name: only
    train: [student, first, second]
    losses:
      fsp: {type: fsp, inputs: {student_first: first, student_second: second, teacher_first: "teacher:0", teacher_second: "teacher:1"}}
"""


def gradients(loss: Tensor, maps: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, maps[:2])


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        name: nn.Sequential(nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(16 * width, 3))
        for name, width in (("student", 3), ("teacher", 5))
    }


def batch_of(size: int) -> dict[str, Tensor]:
    return {"input": torch.randn(size, 1, 8, 8), "target": torch.arange(size) % 3}


# Channels of both maps and their positions; of the second kind the C1 x C2 matrices are never made.
SHAPES = [(3, 5, (4, 4)), (24, 16, (3,)), (40, 30, (2, 2, 1))]


def maps(first: int, second: int, spatial: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(3, count, *spatial, generator=generator, dtype=dtype) for count in (first, second) * 2]
    return [made[0].requires_grad_(), made[1].requires_grad_(), *made[2:]]


@pytest.mark.parametrize("norm", ["frobenius", "columns"])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_are_the_textbooks(shape: tuple[int, int, tuple[int, ...]], norm: str) -> None:
    made = maps(*shape)
    loss, expected = FSPLoss(norm)(*made), fsp(*made, norm)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, made), gradients(expected, made))


def test_golden() -> None:
    names = ["student_first", "student_second", "teacher_first", "teacher_second"]
    made = [torch.tensor(RAW[name], dtype=torch.float64) for name in names]
    for each in made[:2]:
        each.requires_grad_()
    loss = FSPLoss("columns")(*made)
    torch.testing.assert_close(loss, torch.tensor(RAW["value"], dtype=torch.float64))
    for found, expected in zip(gradients(loss, made), RAW["grads"], strict=True):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["frobenius", "columns"])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_gradcheck(shape: tuple[int, int, tuple[int, ...]], norm: str) -> None:
    made = [each[:1].detach() for each in maps(*shape)]
    assert torch.autograd.gradcheck(
        lambda *students: FSPLoss(norm)(*students, *made[2:]), [each.requires_grad_() for each in made[:2]]
    )


@pytest.mark.parametrize("norm", ["frobenius", "columns"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equality_is_zero_with_zero_gradient(shape: tuple[int, int, tuple[int, ...]], norm: str) -> None:
    made = maps(*shape)
    loss = FSPLoss(norm)(made[0], made[1], made[0], made[1])
    assert loss.item() == 0
    assert not any(each.any() for each in gradients(loss, made))


@pytest.mark.parametrize("norm", ["frobenius", "columns"])
@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_are_finite(shape: tuple[int, int, tuple[int, ...]], norm: str) -> None:
    for kept in (0, 1):
        made = [(each * (index // 2 == kept)).detach() for index, each in enumerate(maps(*shape))]
        students = [each.requires_grad_() for each in made[:2]]
        loss = FSPLoss(norm)(*made)
        assert loss.isfinite()
        assert all(each.isfinite().all() for each in gradients(loss, students))


def test_the_larger_map_is_pooled_to_the_smaller() -> None:
    first, second, *teacher = maps(3, 5, (4, 4))
    large = first.detach().repeat_interleave(2, 2).repeat_interleave(2, 3) - torch.rand(8, 8)
    large[:, :, ::2, ::2] = first.detach()
    torch.testing.assert_close(FSPLoss()(large, second, *teacher), FSPLoss()(first, second, *teacher))
    other = [torch.randn(3, 3, 6, 5, dtype=torch.float64), torch.randn(3, 5, 5, 6, dtype=torch.float64)]
    pooled = [torch.nn.functional.adaptive_max_pool2d(each, 5) for each in other]
    torch.testing.assert_close(FSPLoss()(first, second, *other), FSPLoss()(first, second, *pooled))


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_near_equality(shape: tuple[int, int, tuple[int, ...]]) -> None:
    made = maps(*shape, dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    made[2:] = [each.detach() + 1e-3 * torch.randn(each.shape, generator=generator) for each in made[:2]]
    exact = [each.detach().double().requires_grad_() for each in made]
    loss, expected = FSPLoss()(*made), fsp(*exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=0)
    for found, wanted in zip(gradients(loss, made), gradients(expected, exact), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    made = [(100 * each.detach()).to(dtype) for each in maps(3, 5, (4, 4))]
    made[0].requires_grad_()
    loss = FSPLoss()(*made)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, FSPLoss()(*(each.float() for each in made)), rtol=0, atol=0)
    loss.backward()
    assert made[0].grad.dtype == dtype


def test_the_teacher_gets_no_gradient() -> None:
    made = [each.detach().requires_grad_() for each in maps(3, 5, (4, 4))]
    FSPLoss()(*made).backward()
    assert [each.grad is not None for each in made] == [True, True, False, False]


def test_inputs_that_do_not_fit() -> None:
    zeros = torch.zeros
    with pytest.raises(
        ValueError, match=r"student_second has shape \(2, 5, 4, 4\) but teacher_second has \(2, 6, 4, 4\)"
    ):
        FSPLoss()(zeros(2, 3, 4, 4), zeros(2, 5, 4, 4), zeros(2, 3, 4, 4), zeros(2, 6, 4, 4))
    with pytest.raises(ValueError, match="student_first has 2 rows, student_second has 3 rows"):
        FSPLoss()(zeros(2, 3, 4), zeros(3, 3, 4), zeros(2, 3, 4), zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"teacher_first has shape \(2, 3\); 3 to 5 dimensions"):
        FSPLoss()(zeros(2, 3, 4), zeros(2, 3, 4), zeros(2, 3), zeros(2, 3, 4))
    with pytest.raises(ValueError, match="needs as many spatial dimensions in both"):
        FSPLoss()(zeros(2, 3, 4), zeros(2, 3, 4, 4), zeros(2, 3, 4), zeros(2, 3, 4))
    with pytest.raises(ValueError, match="'rows'; it must be one of frobenius, columns"):
        FSPLoss("rows")


@pytest.mark.parametrize(("param", "value"), [("norm", "rows"), ("norms", "columns")])
def test_create_refuses_wrong_params(param: str, value: object) -> None:
    with pytest.raises(ConfigError, match=param):
        create("loss", "fsp", **{param: value})


def test_in_an_objective(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    objective = build_objective(config, models=nets(), example_batch=batch_of(4))
    out = objective(batch_of(4))
    out.total.backward()
    assert out.terms["fsp"] > 0
    learned = {key: each for key, each in objective.named_trainable() if "first" in key or "second" in key}
    assert len(learned) == 4
    assert all(each.grad is not None and each.grad.any() for each in learned.values())
