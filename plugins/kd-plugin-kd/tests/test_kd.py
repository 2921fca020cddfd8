"""`kd` against the paper's formulas, the values of earlier systems, and its own block-wise form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import kd_plugin_kd.divergence as divergence_module
import pytest
import torch
import torch.nn.functional as F
from kd_plugin_kd.divergence import DIVERGENCES, _split, divergence
from kd_plugin_kd.loss import KDLoss
from torch import Tensor

GOLDEN = torch.load(Path(__file__).with_name("golden.pt"), weights_only=True)


def textbook(student: Tensor, teacher: Tensor, kind: str, temperature: float, dim: int = -1) -> Tensor:
    """One value per distribution, scaled by T^2, straight from the definitions."""
    if kind == "mse":
        return ((student - teacher) ** 2).sum(dim)
    p = torch.exp(teacher / temperature) / torch.exp(teacher / temperature).sum(dim, keepdim=True)
    q = torch.exp(student / temperature) / torch.exp(student / temperature).sum(dim, keepdim=True)
    entropy = (p * p.log()).sum(dim) if kind == "kl" else 0
    return temperature**2 * (entropy - (p * q.log()).sum(dim))


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.fixture(params=["whole", "blocks"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on both forms; the small blocks hold a few distributions each."""
    if request.param == "blocks":
        monkeypatch.setattr(divergence_module, "CPU_BLOCK", 16)
    return str(request.param)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("kind", list(DIVERGENCES))
@pytest.mark.parametrize(("shape", "dim"), [((5, 7), -1), ((2, 3, 7), -1), ((2, 7, 3, 2), 1), ((7, 5), 0), ((7,), -1)])
def test_value_and_gradient_follow_the_definition(
    form: str, shape: tuple[int, ...], dim: int, kind: str, temperature: float
) -> None:
    student, teacher = logits(*shape)
    loss = KDLoss(temperature=temperature, divergence=kind, reduction="mean", dim=dim)(student, teacher)
    expected = textbook(student, teacher, kind, temperature, dim).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


@pytest.mark.parametrize("kind", list(DIVERGENCES))
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4)])
def test_gradcheck(form: str, kind: str, shape: tuple[int, ...]) -> None:
    student, teacher = logits(*shape)
    mask = torch.arange(math.prod(shape[:-1])).reshape(shape[:-1]) % 3
    loss = KDLoss(divergence=kind, temperature=2.0)
    assert torch.autograd.gradcheck(lambda student: loss(student, teacher, mask), (student,))


@pytest.mark.parametrize("kind", list(DIVERGENCES))
@pytest.mark.parametrize(
    ("reduction", "divisor"), [("mean", 6), ("batchmean", 2), ("sum", 1), ("elementwise_mean", 42)]
)
def test_reductions(kind: str, reduction: str, divisor: int) -> None:
    student, teacher = logits(2, 3, 7)
    loss = KDLoss(divergence=kind, reduction=reduction)(student, teacher)
    torch.testing.assert_close(loss, textbook(student, teacher, kind, 4.0).sum() / divisor)


@pytest.mark.parametrize("kind", list(DIVERGENCES))
def test_without_scaling_the_factor_is_gone(kind: str) -> None:
    student, teacher = logits(4, 7)
    scaled = KDLoss(temperature=3.0, divergence=kind)(student, teacher)
    torch.testing.assert_close(
        KDLoss(temperature=3.0, divergence=kind, scale_by_temperature=False)(student, teacher), scaled / 9
    )


def test_mask_drops_positions(form: str) -> None:
    student, teacher = logits(2, 3, 7)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    each = textbook(student, teacher, "kl", 4.0)
    loss = KDLoss()(student, teacher, mask)
    torch.testing.assert_close(loss, each[mask].mean())
    torch.testing.assert_close(gradient(loss, student), gradient(each[mask].mean(), student))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 3, 1\).*\(2, 3\)"):
        KDLoss()(student, teacher, mask[..., None])


def test_everything_masked_is_zero_with_zero_gradient(form: str) -> None:
    student, teacher = logits(2, 3, 7)
    loss = KDLoss()(student, teacher, torch.zeros(2, 3, dtype=torch.bool))
    assert loss.item() == 0
    assert not gradient(loss, student).any()


def test_tokens_are_exact_over_uneven_parts() -> None:
    student, teacher = logits(2, 3, 7)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    loss = KDLoss(reduction="tokens")
    parts = [loss(student[i], teacher[i], mask[i]) for i in range(2)]
    total, count = (sum(column) for column in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, KDLoss()(student, teacher, mask))


def test_count_is_known_from_the_mask_alone() -> None:
    student, teacher = logits(2, 3, 7)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    loss = KDLoss(reduction="tokens")
    assert loss.count(mask=mask) == 4 == loss(student, teacher, mask)[1]
    assert loss.count(mask=mask, teacher=teacher) == 4
    assert loss.count() is None
    assert loss.count(teacher=teacher) is None
    assert loss(student, teacher)[1] == 6
    assert KDLoss().count(mask=mask) is None


def test_the_teacher_gets_no_gradient(form: str) -> None:
    student, teacher = logits(4, 7)
    teacher.requires_grad_()
    KDLoss()(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_equality_is_zero_with_zero_gradient(form: str, kind: str) -> None:
    student, _ = logits(4, 7)
    loss = KDLoss(divergence=kind)(student, student)
    assert loss.item() == 0
    torch.testing.assert_close(gradient(loss, student), torch.zeros_like(student), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", ["kl", "cross_entropy"])
def test_classes_excluded_on_both_sides_count_nothing(form: str, kind: str) -> None:
    student, teacher = logits(3, 7)
    columns = [0, 1, 2, 4, 5, 6]
    excluded = torch.zeros(7, dtype=torch.float64)
    excluded[3] = -math.inf
    loss = KDLoss(divergence=kind)(student + excluded, teacher + excluded)
    expected = KDLoss(divergence=kind)(student[:, columns], teacher[:, columns])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", list(DIVERGENCES))
def test_half_precision_is_computed_in_float32(form: str, kind: str, dtype: torch.dtype) -> None:
    student, teacher = logits(5, 7, dtype=dtype)
    single = student.detach().float().requires_grad_()
    loss, expected = KDLoss(divergence=kind)(student, teacher), KDLoss(divergence=kind)(single, teacher.float())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert gradient(loss, student).dtype == dtype
    torch.testing.assert_close(
        gradient(KDLoss(divergence=kind)(student, teacher), student), gradient(expected, single).to(dtype)
    )


def test_one_half_precise_side_and_float64_beside_float32() -> None:
    student, teacher = logits(5, 7, dtype=torch.float32)
    torch.testing.assert_close(
        KDLoss()(student, teacher.bfloat16()), KDLoss()(student, teacher.bfloat16().float()), rtol=0, atol=0
    )
    assert KDLoss()(student, teacher.double()).dtype == torch.float64


def test_autocast_changes_nothing(form: str) -> None:
    student, teacher = logits(5, 7, dtype=torch.float32)
    expected = KDLoss()(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        loss = KDLoss()(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)


def test_large_logits_stay_finite(form: str) -> None:
    student, teacher = logits(5, 7, dtype=torch.float32)
    loss = KDLoss(temperature=1.0)(student * 1e4, teacher * 1e4)
    assert loss.isfinite()
    assert gradient(loss, student).isfinite().all()


def test_logits_that_are_not_contiguous(form: str) -> None:
    student, teacher = logits(3, 4, 7)
    loss = KDLoss()(student[:, :-1], teacher[:, :-1])
    torch.testing.assert_close(loss, textbook(student[:, :-1], teacher[:, :-1], "kl", 4.0).mean())
    across = KDLoss()(student.transpose(1, 2), teacher.transpose(1, 2))
    torch.testing.assert_close(across, textbook(student, teacher, "kl", 4.0, dim=1).mean())


def test_under_a_compiler() -> None:
    student, teacher = logits(5, 7)
    loss = KDLoss()
    compiled = torch.compile(loss, backend="aot_eager")
    value, expected = compiled(student, teacher), loss(student, teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, student), gradient(expected, student))


@pytest.mark.parametrize("kind", list(DIVERGENCES))
def test_second_derivatives(form: str, kind: str) -> None:
    student, teacher = logits(3, 7)
    loss = KDLoss(divergence=kind)
    assert torch.autograd.gradgradcheck(lambda student: loss(student, teacher), (student,))


@pytest.mark.parametrize("leading", [(), (1,), (6,), (2, 3), (5, 2, 3)])
@pytest.mark.parametrize("limit", [1, 4, 8, 13, 1000])
def test_blocks_cover_every_distribution_once(leading: tuple[int, ...], limit: int) -> None:
    seen = torch.zeros(leading)
    for block in _split(leading, 4, limit):
        assert seen[block].numel() * 4 <= max(limit, 4)
        seen[block] += 1
    assert (seen == 1).all()


def test_other_vocabulary_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"student has shape \(2, 7\) but teacher has \(2, 9\).*same classes or vocabulary"
    ):
        KDLoss()(torch.zeros(2, 7), torch.zeros(2, 9))


def test_shapes_that_cannot_be_logits() -> None:
    with pytest.raises(ValueError, match=r"student has shape \(\); 1\+ dimensions"):
        KDLoss()(torch.zeros(()), torch.zeros(()))
    with pytest.raises(ValueError, match="no dimension dim=2"):
        KDLoss(dim=2)(torch.zeros(2, 7), torch.zeros(2, 7))


def test_golden_hard_and_soft_with_batchmean() -> None:
    case = GOLDEN["kd_loss"]
    student = case["student"].clone().requires_grad_()
    kd = KDLoss(temperature=case["temperature"], reduction=case["reduction"])(student, case["teacher"])
    total = case["alpha"] * F.cross_entropy(student, case["targets"]) + (1 - case["alpha"]) * kd
    torch.testing.assert_close(total, case["value"])
    torch.testing.assert_close(gradient(total, student), case["grad"])


FORMS = {"CE": ("cross_entropy", "mean"), "KL": ("kl", "elementwise_mean"), "MSE": ("mse", "elementwise_mean")}


@pytest.mark.parametrize(
    "case", GOLDEN["soft_and_hard"], ids=lambda case: f"{case['loss_types']}-{case['student'].dim()}d"
)
def test_golden_three_divergences(form: str, case: dict[str, Any]) -> None:
    student = case["student"].clone().requires_grad_()
    kind, reduction = FORMS[case["loss_types"][1]]
    kd = KDLoss(temperature=case["temperature"], divergence=kind, reduction=reduction)(student, case["teacher"])
    hard_weight, soft_weight = case["loss_weights"]
    hard = F.cross_entropy if case["loss_types"][0] == "CE" else F.mse_loss
    total = hard_weight * hard(student, case["targets"]) + soft_weight * kd
    torch.testing.assert_close(total, case["loss"])
    torch.testing.assert_close(gradient(total, student), case["grad_student"])


@pytest.mark.parametrize("case", GOLDEN["logits"], ids=lambda case: f"{case['reduction']}-{case['temperature']}")
def test_golden_logits(case: dict[str, Any]) -> None:
    student = case["student"].clone().requires_grad_()
    temperature = case["temperature"]
    if case["reduction"] == "none":
        value = temperature**2 * divergence(student, case["teacher"], kind="kl", temperature=temperature)
    else:
        reduction = "elementwise_mean" if case["reduction"] == "mean" else case["reduction"]
        value = KDLoss(temperature=temperature, reduction=reduction)(student, case["teacher"])
    torch.testing.assert_close(value, case["value"])
    torch.testing.assert_close(gradient(value.sum(), student), case["grad"])
