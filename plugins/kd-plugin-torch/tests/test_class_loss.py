"""`cross_entropy` and `nll` against their formulas, torch's own classes, and their counts."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kd_plugin_torch.class_loss import CrossEntropyLoss, NLLLoss
from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts

IGNORED = -100
FACTORS = [0.5, 1.0, 2.0, 0.0, 3.0]


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def labels(*shape: int, classes: int = 5) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(1))


def textbook(
    input: Tensor, target: Tensor, weight: list[float] | None = None, smoothing: float = 0.0
) -> tuple[float, float]:
    """Sum and count over rows (N, C) of logits, label by label."""
    weight = weight or [1.0] * input.shape[1]
    total, count = 0.0, 0.0
    for row, label in zip(input.tolist(), target.tolist(), strict=True):
        if label == IGNORED:
            continue
        log_normaliser = math.log(sum(math.exp(value) for value in row))
        costs = [w * (log_normaliser - value) for w, value in zip(weight, row, strict=True)]
        total += (1 - smoothing) * costs[label] + smoothing * sum(costs) / len(row)
        count += weight[label]
    return total, count


@pytest.mark.parametrize("weight", [None, FACTORS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignore_some", [False, True])
def test_cross_entropy_follows_the_definition(weight: list[float] | None, smoothing: float, ignore_some: bool) -> None:
    input, target = logits(6, 5), labels(6)
    target[1] = IGNORED if ignore_some else target[1]
    total, count = textbook(input, target, weight, smoothing)
    for reduction, expected in (("mean", total / count), ("sum", total)):
        loss = CrossEntropyLoss(weight=weight, reduction=reduction, label_smoothing=smoothing)
        assert loss(input, target).item() == pytest.approx(expected, rel=1e-12)
        assert torch.autograd.gradcheck(lambda logits, loss=loss: loss(logits, target), (input,))
    pair = CrossEntropyLoss(weight=weight, reduction="tokens", label_smoothing=smoothing)(input, target)
    assert [each.item() for each in pair] == pytest.approx([total, count], rel=1e-12)


@pytest.mark.parametrize("weight", [None, FACTORS])
def test_nll_reads_log_probabilities(weight: list[float] | None) -> None:
    input, target = logits(6, 5), labels(6)
    target[2] = IGNORED
    total, count = textbook(input, target, weight)
    assert NLLLoss(weight=weight)(input.log_softmax(1), target).item() == pytest.approx(total / count, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("shape", "class_dim"),
    [((2, 3, 5), -1), ((2, 3, 5), 2), ((2, 5, 3), 1), ((2, 5, 3, 4), 1), ((5, 6), 0), ((5,), -1)],
)
def test_classes_may_stand_anywhere(shape: tuple[int, ...], class_dim: int, smoothing: float) -> None:
    input = logits(*shape)
    target = labels(*(size for dim, size in enumerate(shape) if dim != class_dim % len(shape)))
    loss = CrossEntropyLoss(class_dim=class_dim, label_smoothing=smoothing)
    rows = input.movedim(class_dim, -1).reshape(-1, 5)
    total, count = textbook(rows, target.reshape(-1), smoothing=smoothing)
    assert loss(input, target).item() == pytest.approx(total / count, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss(input, target), input)
    (expected,) = torch.autograd.grad(F.cross_entropy(rows, target.reshape(-1), label_smoothing=smoothing), input)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("class_dim", [-1, 1])
@pytest.mark.parametrize("params", [{}, {"weight": FACTORS}, {"label_smoothing": 0.2}])
def test_probabilities_as_target(class_dim: int, params: dict[str, Any]) -> None:
    shape = (2, 3, 5) if class_dim == -1 else (2, 5, 3)
    input, target = logits(*shape), torch.rand(shape, dtype=torch.float64).softmax(class_dim)
    rows, goals = (each.movedim(class_dim, -1).reshape(-1, 5) for each in (input, target))
    weight = torch.tensor(params.get("weight", [1.0] * 5), dtype=torch.float64)
    smoothing = params.get("label_smoothing", 0.0)
    each = -(weight * (goals * (1 - smoothing) + smoothing / 5) * rows.log_softmax(1)).sum(1)
    torch.testing.assert_close(CrossEntropyLoss(**params, class_dim=class_dim)(input, target), each.mean())
    loss = CrossEntropyLoss(**params, class_dim=class_dim, reduction="tokens")
    total, count = loss(input, target)
    torch.testing.assert_close(total, each.sum())
    assert count == 6 == loss.count(target=target)


@pytest.mark.parametrize("params", [{}, {"weight": FACTORS}, {"label_smoothing": 0.2}])
def test_every_label_ignored_is_zero_with_zero_gradient(params: dict[str, Any]) -> None:
    input, target = logits(6, 5), torch.full((6,), IGNORED)
    for reduction in ("mean", "sum", "tokens"):
        value = CrossEntropyLoss(**params, reduction=reduction)(input, target)
        total = value[0] if isinstance(value, tuple) else value
        (gradient,) = torch.autograd.grad(total, input)
        assert total.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("params", [{}, {"label_smoothing": 0.2}])
def test_no_position_at_all_is_zero(params: dict[str, Any]) -> None:
    assert CrossEntropyLoss(**params)(logits(0, 5), labels(0)).item() == 0
    assert CrossEntropyLoss(**params)(logits(2, 0, 5), labels(2, 0)).item() == 0


@pytest.mark.parametrize("weight", [None, FACTORS])
def test_count_is_known_from_the_labels_alone(weight: list[float] | None) -> None:
    input, target = logits(2, 3, 5), labels(2, 3)
    target[0, 1:] = IGNORED
    loss = CrossEntropyLoss(weight=weight, reduction="tokens")
    before = loss.count(target=target)
    total, count = loss(input, target)
    assert before == pytest.approx(count)
    torch.testing.assert_close(total / count, CrossEntropyLoss(weight=weight)(input, target))
    assert weight is not None or before == 4
    assert loss.count(target=target, input=input) == before
    assert loss.count() is None
    assert CrossEntropyLoss(weight=weight).count(target=target) is None


def test_tokens_are_exact_over_uneven_parts() -> None:
    input, target = logits(2, 3, 5), labels(2, 3)
    target[0, 1:] = IGNORED
    loss = CrossEntropyLoss(reduction="tokens")
    parts = [loss(input[i], target[i]) for i in range(2)]
    total, count = (sum(column) for column in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, CrossEntropyLoss()(input, target))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("params", [{}, {"weight": FACTORS}, {"label_smoothing": 0.2}])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, params: dict[str, Any]) -> None:
    input, target = logits(6, 5, dtype=dtype), labels(6)
    loss = CrossEntropyLoss(**params)
    value, expected = loss(input, target), loss(input.float(), target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert torch.autograd.grad(value, input)[0].dtype == dtype
    torch.testing.assert_close(NLLLoss()(input, target), NLLLoss()(input.float(), target), rtol=0, atol=0)


@pytest.mark.parametrize("params", [{}, {"weight": FACTORS, "label_smoothing": 0.1}])
def test_agrees_with_torch_under_autocast_and_a_compiler(params: dict[str, Any]) -> None:
    input, target = logits(2, 5, 3, dtype=torch.float32), labels(2, 3)
    given = {**params, "weight": torch.tensor(params["weight"])} if "weight" in params else params
    expected = nn.CrossEntropyLoss(**given)(input, target)
    loss = CrossEntropyLoss(**params, class_dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(input, target), expected)
    torch.testing.assert_close(torch.compile(copy.deepcopy(loss), backend="aot_eager")(input, target), expected)


def test_labels_of_other_integer_types() -> None:
    input, target = logits(6, 5), labels(6)
    for dtype in (torch.int32, torch.uint8):
        assert CrossEntropyLoss()(input, target.to(dtype)) == CrossEntropyLoss()(input, target)


def test_labels_of_another_shape_name_both() -> None:
    message = r"target has shape \(2, 3\), but input has \(2, 5, 3\).*dimension -1.*\(2, 5\); set class_dim"
    with pytest.raises(ValueError, match=message):
        CrossEntropyLoss()(logits(2, 5, 3), labels(2, 3))


def test_floating_labels_are_explained() -> None:
    with pytest.raises(
        ValueError, match=r"taken for probabilities, but has shape \(6,\).*class indices must be integers"
    ):
        CrossEntropyLoss()(logits(6, 5), labels(6).double())
    with pytest.raises(ValueError, match=r"target is torch\.float64; class indices must be integers"):
        NLLLoss()(logits(6, 5), labels(6).double())


def test_wrong_weights_and_dimensions() -> None:
    with pytest.raises(ValueError, match=r"weight has 3 numbers, but input has shape \(6, 5\): 5 classes"):
        CrossEntropyLoss(weight=[1, 2, 3])(logits(6, 5), labels(6))
    with pytest.raises(ValueError, match="no dimension class_dim=2"):
        CrossEntropyLoss(class_dim=2)(logits(6, 5), labels(6))
    with pytest.raises(ValueError, match="no dimension class_dim=2"):
        CrossEntropyLoss(class_dim=2).setup(facts(10, (6, 5)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"reduction": "none"}, "'none'; it must be one of mean, sum, tokens"),
        ({"label_smoothing": 1.5}, r"label_smoothing is 1\.5; it must be from 0 to 1"),
    ],
)
def test_wrong_params(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossEntropyLoss(**params)


def facts(classes: int | None, shape: tuple[int, ...], target: torch.dtype = torch.int64) -> Facts:
    inputs = {"input": TensorFacts(shape, torch.float32), "target": TensorFacts((shape[0],), target)}
    return Facts(inputs=inputs, num_classes=classes)


def test_setup_refuses_fewer_classes_than_the_data_has() -> None:
    message = r"input has shape \(8, 10\), 10 classes .* but the data set has 100 classes.*Build the model with 100"
    with pytest.raises(ValueError, match=message):
        CrossEntropyLoss().setup(facts(100, (8, 10)))
    with pytest.raises(ValueError, match="4 classes along dimension 1"):
        CrossEntropyLoss(class_dim=1).setup(facts(10, (8, 4, 32, 32)))


def test_setup_accepts_enough_unknown_and_no_classes() -> None:
    for given in (
        facts(10, (8, 10)),
        facts(10, (8, 12)),
        facts(None, (8, 2)),
        facts(100, (8, 10), torch.float32),
        Facts(),
    ):
        loss = CrossEntropyLoss()
        loss.setup(given)
        assert loss(logits(6, 5), labels(6)).isfinite()


def test_setup_leaves_heads_on_other_labels_alone() -> None:
    given = Facts(
        inputs={"input": TensorFacts((8, 4), torch.float32)}, addresses={"target": "batch:rotation"}, num_classes=10
    )
    CrossEntropyLoss().setup(given)
    with pytest.raises(ValueError, match="10 classes"):
        CrossEntropyLoss().setup(replace(given, addresses={"target": "batch:target"}))
