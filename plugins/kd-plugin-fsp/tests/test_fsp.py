"""`fsp` against the paper's form and the values of an earlier system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kd_plugin_fsp.flow import by_positions, few_positions, squared_difference
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


# Channels of both maps and their positions; of the last the C1 x C2 matrices of 3 samples are never made.
SHAPES = [(3, 5, (4, 4)), (24, 16, (3,)), (160, 140, (2, 1, 1))]
# Channels and positions on both sides of each boundary: 5 n (C1 + C2) against 3 C1 C2, and the numbers of 3 C1 C2.
BOUNDARY = [((160, 160), 48, True), ((160, 160), 49, False), ((150, 146), 2, True), ((150, 145), 2, False)]


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


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("channels", [(1, 1), (2, 7), (40, 3)])
@pytest.mark.parametrize("positions", [1, 2, 9, 41])
def test_the_form_of_few_positions_is_the_textbooks_at_every_size(
    batch: int, channels: tuple[int, int], positions: int
) -> None:
    made = [each[:1].expand(batch, -1, -1) for each in maps(*channels, (positions,))]
    made = [each.detach() * torch.linspace(1, 2, batch, dtype=each.dtype)[:, None, None] for each in made]
    first, second = (each.requires_grad_() for each in made[:2])
    expected = fsp(*made) * batch
    wanted = gradients(expected, made)
    found = torch.full_like(first, torch.nan), torch.full_like(second, torch.nan)
    with torch.no_grad():
        value = by_positions((first, second), (made[2], made[3]), found)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("channels", "positions", "few"), BOUNDARY, ids=lambda value: str(value).replace(" ", ""))
def test_the_boundary_of_few_positions(channels: tuple[int, int], positions: int, few: bool) -> None:
    made = maps(*channels, (positions,))
    student, teacher = (made[0], made[1]), (made[2], made[3])
    assert few_positions(student, teacher) == few
    loss, expected = squared_difference(student, teacher), fsp(*made) * len(made[0])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(loss, made), gradients(expected, made), rtol=1e-10, atol=1e-12)


def test_student_and_teacher_of_different_sizes() -> None:
    student, teacher = maps(160, 140, (3,))[:2], maps(160, 140, (5,))[2:]
    assert not few_positions((student[0], student[1]), (teacher[0], teacher[1]))
    loss, expected = FSPLoss()(*student, *teacher), fsp(*student, *teacher)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, student), gradients(expected, student))


def test_blocks_of_samples_give_what_the_samples_do() -> None:
    generator = torch.Generator().manual_seed(4)
    made = [torch.randn(20, 512, 49, generator=generator) for _ in range(4)]
    for each in made[:2]:
        each.requires_grad_()
    loss = FSPLoss()(*made)
    one = torch.stack([FSPLoss()(*(each[i : i + 1] for each in made)) for i in range(20)]).mean()
    torch.testing.assert_close(loss, one)
    torch.testing.assert_close(gradients(loss, made), gradients(one, made))


@pytest.mark.parametrize("learns", [0, 1])
def test_one_map_may_be_constant(learns: int) -> None:
    made = [each.detach() for each in maps(160, 140, (3,))]
    made[learns].requires_grad_()
    torch.testing.assert_close(
        *(torch.autograd.grad(form(*made), made[learns])[0] for form in (FSPLoss(), fsp)),
    )


def test_there_is_no_second_derivative_in_silence() -> None:
    made = maps(160, 140, (3,))
    found = torch.autograd.grad(FSPLoss()(*made), made[1], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="makes its gradient in closed form"):
        found.sum().backward()


def test_autocast_changes_nothing_with_few_positions() -> None:
    made = maps(*SHAPES[2], dtype=torch.float32)
    expected = FSPLoss()(*made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FSPLoss()(*made)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients(loss, made), gradients(expected, made), rtol=0, atol=0)


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
@pytest.mark.parametrize("shape", [*SHAPES[:2], (256, 256, (1,))])
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
