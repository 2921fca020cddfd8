"""`mft` against the correction's two cases, the values of an earlier system, and at its edges."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kd_plugin_mlp_mft.loss import MFTLoss, corrected
from torch import Tensor, nn

from kdcore import build_objective
from kdcore.contracts import Facts, TensorFacts
from kdcore.errors import WiringError

TEXTBOOK = runpy.run_path(str(Path(__file__).with_name("textbook.py")))
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def batch(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    target = torch.randint(shape[-1], shape[:-1], generator=generator)
    target.view(-1)[::2] = teacher.argmax(-1).view(-1)[::2]  # the teacher is right about half of them
    return student.to(dtype).requires_grad_(), teacher.to(dtype), target


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("form", ["mft", "mft_at_once"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("threshold", [0, 0.2, 0.7, 1])
@pytest.mark.parametrize("shape", [(6, 7), (2, 3, 5), (1, 2)])
def test_value_and_gradient_follow_the_paper(
    shape: tuple[int, ...], threshold: float, temperature: float, form: str
) -> None:
    if form == "mft_at_once" and threshold == 1:
        pytest.skip("there it divides two roundings of one number, and takes the logarithm of what remains")
    student, teacher, target = batch(*shape)
    loss = MFTLoss(threshold, temperature)(student, teacher, target)
    rows = student.view(-1, shape[-1]), teacher.view(-1, shape[-1]), target.view(-1)
    expected = TEXTBOOK[form](*rows, threshold, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


@pytest.mark.parametrize("threshold", [0, 0.2, 0.7])
def test_the_correction_is_the_least_that_makes_the_label_lead(threshold: float) -> None:
    _, teacher, target = batch(64, 5)
    p = teacher.softmax(-1)
    changed = corrected(p.clone(), target[:, None], threshold)
    torch.testing.assert_close(changed.sum(-1), torch.ones(64).double())
    others = ~F.one_hot(target, 5).bool()
    leads = [each.gather(-1, target[:, None]).squeeze(-1) - each.where(others, 0).amax(-1) for each in (p, changed)]
    torch.testing.assert_close(leads[1], leads[0].clamp(min=threshold))
    shares = (changed / p)[others].view(64, 4)
    torch.testing.assert_close(shares, shares[:, :1].expand_as(shares))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['threshold']}-{case['temperature']}")
def test_golden(case: dict[str, Any]) -> None:
    student = torch.tensor(case["student"], requires_grad=True)
    target = torch.tensor(case["labels"])
    loss = MFTLoss(case["threshold"], case["temperature"])(student, torch.tensor(case["teacher"]), target)
    divisor = {"mean": student.shape[1], "sum": 1 / len(target), "batchmean": 1}[case["reduction"]]
    torch.testing.assert_close(loss.item() / divisor, case["value"], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient(loss, student) / divisor, torch.tensor(case["gradient"]), rtol=1e-4, atol=1e-6)


def test_a_teacher_that_leads_is_left_alone() -> None:
    student, teacher, target = batch(6, 7)
    leading = teacher + 10 * F.one_hot(target, 7)
    loss = MFTLoss()(student, leading, target)
    p = leading.softmax(-1)
    torch.testing.assert_close(loss, F.kl_div(student.log_softmax(-1), p, reduction="batchmean"))


@pytest.mark.parametrize("threshold", [0, 0.2, 1])
def test_a_teacher_that_is_certain_is_finite(threshold: float) -> None:
    student, teacher, target = batch(4, 7, dtype=torch.float32)
    for label in (target, (target + 1) % 7):
        loss = MFTLoss(threshold)(student, teacher + 1000 * F.one_hot(label, 7), target)
        assert loss.isfinite()
        assert gradient(loss, student).isfinite().all()


def test_a_threshold_of_one_is_cross_entropy() -> None:
    student, teacher, target = batch(6, 7)
    torch.testing.assert_close(MFTLoss(threshold=1)(student, teacher, target), F.cross_entropy(student, target))


def test_zeros_and_a_batch_of_one() -> None:
    student = torch.zeros(1, 4, requires_grad=True)
    loss = MFTLoss(threshold=0.2)(student, torch.zeros(1, 4), torch.tensor([1]))
    p = torch.tensor([0.2, 0.4, 0.2, 0.2])
    torch.testing.assert_close(loss, (p * (4 * p).log()).sum())
    torch.testing.assert_close(gradient(loss, student), (0.25 - p)[None])


@pytest.mark.parametrize(
    ("student", "teacher", "target", "message"),
    [
        ((2, 7), (2, 9), (2,), r"student has shape \(2, 7\) but teacher has \(2, 9\).*same classes"),
        ((7,), (7,), (), r"student has shape \(7,\); 2\+ dimensions"),
        ((2, 3, 7), (2, 3, 7), (6,), r"target has shape \(6,\) but student has \(2, 3, 7\).*\(2, 3\)"),
        ((2, 1), (2, 1), (2,), r"student has shape \(2, 1\); mft needs two classes or more"),
    ],
)
def test_shapes_that_do_not_fit(student: Any, teacher: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MFTLoss()(torch.zeros(student), torch.zeros(teacher), torch.zeros(target, dtype=torch.long))


def test_labels_that_do_not_fit() -> None:
    student, teacher, _ = batch(2, 7)
    with pytest.raises(ValueError, match="target holds 7; with 7 classes, labels are 0 to 6"):
        MFTLoss()(student, teacher, torch.tensor([0, 7]))
    with pytest.raises(ValueError, match=r"holds -100.*\[causal, {type: masked, params: {ignore_index: -100}}\]"):
        MFTLoss()(student, teacher, torch.tensor([-100, 1]))
    with pytest.raises(ValueError, match=r"dtype torch.float32; class indices"):
        MFTLoss()(student, teacher, torch.zeros(2))


def test_setup_refuses_fewer_classes_than_the_data_has() -> None:
    inputs = {"student": TensorFacts((2, 7), torch.float32)}
    MFTLoss().setup(Facts(inputs=inputs, num_classes=7))
    with pytest.raises(ValueError, match=r"\(2, 7\), 7 classes, but the data set has 8: build the model with 8"):
        MFTLoss().setup(Facts(inputs=inputs, num_classes=8))


CONFIG = """
version: 1
models: {student: {}, teacher: {}}
stages:
  - name: adapt
    train: [student]
    losses:
      mft: {type: mft, wrapper: {type: masked, params: {ignore_index: -100}}}
"""


def test_in_an_objective_with_labels_to_ignore() -> None:
    models = {"student": nn.Linear(4, 3), "teacher": nn.Linear(4, 3)}
    batch = {"input": torch.randn(2, 3, 4), "target": torch.tensor([[0, 1, -100], [2, -100, -100]])}
    objective = build_objective(CONFIG, models=models, example_batch=batch)
    out = objective(batch)
    keep = batch["target"] >= 0
    logits = [models[name](batch["input"])[keep] for name in ("student", "teacher")]
    torch.testing.assert_close(out.total, MFTLoss()(*logits, batch["target"][keep]))
    out.total.backward()
    assert models["student"].weight.grad is not None
    with pytest.raises(WiringError, match=r"(?s)term 'mft'.*target = batch:target.*target holds 3"):
        objective({**batch, "target": torch.full((2, 3), 3)})
