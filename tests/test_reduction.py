"""The reductions against their formulas, written out with Python numbers."""

from __future__ import annotations

import math

import pytest
import torch

from kdcore.reduction import REDUCTIONS, check_reduction, count_positions, divide, reduce_losses

LOSSES = [[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]
MASK = [[True, False, True], [False, False, True]]
WEIGHTS = [[0.5, 0.0, 2.0], [0.0, 0.25, 1.0]]
CLASSES = 5


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", 63 / 6), ("batchmean", 63 / 2), ("sum", 63.0), ("elementwise_mean", 63 / 30)],
)
def test_without_a_mask(reduction: str, expected: float) -> None:
    assert reduce_losses(torch.tensor(LOSSES), reduction, num_classes=CLASSES).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", 37 / 3), ("batchmean", 37 / 2), ("sum", 37.0), ("elementwise_mean", 37 / 15)],
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16])
def test_a_mask_of_zeros_and_ones_of_any_dtype(reduction: str, expected: float, dtype: torch.dtype) -> None:
    mask = torch.tensor(MASK).to(dtype)
    assert reduce_losses(torch.tensor(LOSSES), reduction, num_classes=CLASSES, mask=mask).item() == pytest.approx(
        expected
    )


def test_a_mask_of_numbers_weighs_positions() -> None:
    total = 0.5 * 1 + 2 * 4 + 0.25 * 16 + 32
    losses, mask = torch.tensor(LOSSES), torch.tensor(WEIGHTS)
    assert reduce_losses(losses, "sum", num_classes=CLASSES, mask=mask).item() == pytest.approx(total)
    assert reduce_losses(losses, "mean", num_classes=CLASSES, mask=mask).item() == pytest.approx(total / 3.75)


def test_tokens_returns_sum_and_count() -> None:
    assert [each.item() for each in reduce_losses(torch.tensor(LOSSES), "tokens", num_classes=CLASSES)] == [63, 6]
    masked = reduce_losses(torch.tensor(LOSSES), "tokens", num_classes=CLASSES, mask=torch.tensor(MASK))
    assert [each.item() for each in masked] == [37, 3]
    assert count_positions(torch.tensor(MASK)).item() == 3


def test_tokens_of_parts_add_up_to_the_whole() -> None:
    losses, mask = torch.tensor(LOSSES), torch.tensor(MASK)
    parts = [reduce_losses(losses[i], "tokens", num_classes=CLASSES, mask=mask[i]) for i in range(2)]
    total, count = (sum(column) for column in zip(*parts, strict=True))
    assert total / count == reduce_losses(losses, "mean", num_classes=CLASSES, mask=mask)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_counted_is_zero_with_zero_gradient(reduction: str) -> None:
    losses = torch.tensor(LOSSES, requires_grad=True)
    reduced = reduce_losses(losses, reduction, num_classes=CLASSES, mask=torch.zeros(2, 3, dtype=torch.bool))
    total = reduced[0] if isinstance(reduced, tuple) else reduced
    total.backward()
    assert total.item() == 0
    assert losses.grad is not None
    assert losses.grad.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_distribution_at_all_is_zero(reduction: str) -> None:
    reduced = reduce_losses(torch.empty(0, 3), reduction, num_classes=CLASSES)
    assert (reduced[0] if isinstance(reduced, tuple) else reduced).item() == 0


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_garbage_at_a_masked_position_counts_for_nothing(garbage: float) -> None:
    losses = torch.tensor([1.0, garbage], requires_grad=True)
    mean = reduce_losses(losses, "mean", num_classes=CLASSES, mask=torch.tensor([1, 0]))
    mean.backward()
    assert mean.item() == 1
    assert losses.grad is not None
    assert losses.grad.tolist() == [1.0, 0.0]


def test_float64_stays() -> None:
    losses = torch.tensor(LOSSES, dtype=torch.float64)
    mask = torch.tensor(WEIGHTS)
    for reduction in REDUCTIONS:
        reduced = reduce_losses(losses, reduction, num_classes=CLASSES, mask=mask)
        assert {each.dtype for each in (reduced if isinstance(reduced, tuple) else (reduced,))} == {torch.float64}


def test_divide_by_a_count_of_zero_is_zero() -> None:
    assert divide(torch.tensor(0.0), torch.tensor(0.0)).item() == 0
    assert divide(torch.tensor(3.0), torch.tensor(0.5)).item() == 6


def test_mask_of_another_shape_names_both() -> None:
    with pytest.raises(ValueError, match=r"mask has shape \(2,\).*\(2, 3\)"):
        reduce_losses(torch.tensor(LOSSES), "mean", num_classes=CLASSES, mask=torch.ones(2))


def test_unknown_reduction_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"'none'.*mean, batchmean, sum, elementwise_mean, tokens"):
        reduce_losses(torch.tensor(LOSSES), "none", num_classes=CLASSES)
    with pytest.raises(ValueError, match="'tokens'; it must be one of mean, sum"):
        check_reduction("tokens", ("mean", "sum"))


def test_batchmean_needs_a_batch() -> None:
    with pytest.raises(ValueError, match="only one distribution: use 'sum'"):
        reduce_losses(torch.tensor(1.0), "batchmean", num_classes=CLASSES)
