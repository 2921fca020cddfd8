"""`dkd` against equation 7 of the paper, and at its edges."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from kd_plugin_dkd.loss import DKDLoss
from torch import Tensor

from kdcore.contracts import Facts, TensorFacts

textbook = runpy.run_path(str(Path(__file__).with_name("textbook.py")))["dkd"]


def batch(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    target = torch.randint(shape[-1], shape[:-1], generator=generator)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), target


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (4, 2), (1, 5)])
@pytest.mark.parametrize("params", [{}, {"alpha": 0.5, "beta": 2, "temperature": 1}, {"alpha": 0}, {"beta": 0}])
def test_value_and_gradient_follow_the_paper(shape: tuple[int, ...], params: dict[str, Any]) -> None:
    student, teacher, target = batch(*shape)
    loss = DKDLoss(**params)(student, teacher, target)
    chosen = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, **params}
    rows = student.reshape(-1, shape[-1]), teacher.reshape(-1, shape[-1]), target.reshape(-1)
    expected = textbook(*rows, **chosen)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_the_parts_add_up_to_hintons_divergence() -> None:
    """KL = target part + (1 - p_y) * other part, section 3.1 of the paper, one sample at a time."""
    student, teacher, target = batch(6, 5)
    for s, t, y in zip(student, teacher, target, strict=True):
        rest = 1 - t.softmax(-1)[y].item()
        decoupled = DKDLoss(alpha=1, beta=rest, temperature=1)(s[None], t[None], y[None])
        p = t.softmax(-1)
        torch.testing.assert_close(decoupled, (p * (p.log() - s.log_softmax(-1))).sum())


@pytest.mark.parametrize("margin", [20.0, 60.0, 1000.0])
def test_a_sure_teacher_costs_no_accuracy(margin: float) -> None:
    """At a margin of 20, 1 - p_y is 2e-9 and lost in float32; the ranking of the others must not be."""
    student, teacher, target = batch(4, 6, dtype=torch.float32)
    sure = torch.nn.functional.one_hot(target, 6) * margin
    loss = DKDLoss(temperature=1)(student + sure, teacher + sure, target)
    exact = DKDLoss(temperature=1)(student.double() + sure, teacher.double() + sure, target)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-6)
    assert loss.item() > 1
    assert gradient(loss, student).isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "target", "message"),
    [
        ((2, 7), (2, 9), (2,), r"student has shape \(2, 7\) but teacher has \(2, 9\).*same classes"),
        ((7,), (7,), (), r"student has shape \(7,\); 2\+ dimensions"),
        ((2, 7), (2, 7), (3,), r"target has shape \(3,\) but student has \(2, 7\).*\(2,\)"),
        ((2, 1), (2, 1), (2,), r"student has shape \(2, 1\); dkd needs two classes or more"),
    ],
)
def test_shapes_that_do_not_fit(student: Any, teacher: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DKDLoss()(torch.zeros(student), torch.zeros(teacher), torch.zeros(target, dtype=torch.long))


def test_labels_that_do_not_fit() -> None:
    student, teacher, _ = batch(2, 7)
    with pytest.raises(ValueError, match="target holds 7; with 7 classes, labels are 0 to 6"):
        DKDLoss()(student, teacher, torch.tensor([0, 7]))
    with pytest.raises(ValueError, match=r"holds -100.*\[causal, {type: masked, params: {ignore_index: -100}}\]"):
        DKDLoss()(student, teacher, torch.tensor([-100, 1]))
    with pytest.raises(ValueError, match=r"dtype torch.float32; class indices"):
        DKDLoss()(student, teacher, torch.zeros(2))


def test_setup_refuses_fewer_classes_than_the_data_has() -> None:
    inputs = {"student": TensorFacts((2, 7), torch.float32)}
    DKDLoss().setup(Facts(inputs=inputs, num_classes=7))
    DKDLoss().setup(Facts(inputs=inputs, addresses={"target": "batch:rotation"}, num_classes=8))
    with pytest.raises(ValueError, match=r"\(2, 7\), 7 classes, but the data set has 8: build the model with 8"):
        DKDLoss().setup(Facts(inputs=inputs, num_classes=8))


def test_a_loss_of_no_part_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha and beta are both 0, which teaches nothing: give one of them"):
        DKDLoss(alpha=0, beta=0)


@pytest.mark.parametrize("classes", [10, 100, 1000])
@pytest.mark.parametrize("apart", [1e-1, 1e-2])
def test_near_its_teacher_float32_keeps_digits_of_the_value(classes: int, apart: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn(32, classes, generator=generator)
    student = teacher + apart * torch.randn(32, classes, generator=generator)
    target = torch.arange(32) % classes
    loss, expected = DKDLoss()(student, teacher, target), DKDLoss()(student.double(), teacher.double(), target)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5 / apart**1.5 / 5, atol=0)
