"""How one loss value per distribution becomes what a loss returns: a scalar, or a sum and its count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Reduction = Literal["mean", "batchmean", "sum", "elementwise_mean", "tokens"]
Reduced = Tensor | tuple[Tensor, Tensor]

REDUCTIONS: tuple[str, ...] = get_args(Reduction)


def check_reduction(reduction: str, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    """Raise ValueError unless `reduction` is one of `allowed`."""
    if reduction not in allowed:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(allowed)}")


def reduce_losses(
    losses: Tensor, reduction: str, *, num_classes: int, mask: Tensor | None = None, scale: float = 1.0
) -> Reduced:
    """Reduce one loss value per distribution, each weighted by its mask, and scale the result.

    With losses l_i, weights m_i (1 without a mask), batch size B and C classes:

        mean               sum_i m_i l_i / sum_i m_i
        batchmean          sum_i m_i l_i / B
        sum                sum_i m_i l_i
        elementwise_mean   sum_i m_i l_i / (C sum_i m_i)
        tokens             (sum_i m_i l_i, sum_i m_i)

    A position of weight 0 counts for nothing whatever its loss is, NaN included. Where all weights
    are 0 the mean is 0 and so is its gradient.

    Arguments:
        losses: (B, ...), one value per distribution, already summed over its classes.
        reduction: one of the five above.
        num_classes: the size of the class dimension that `losses` no longer has.
        mask: bool or number, of the shape of `losses`; what a position counts.
        scale: multiplies the result (of `tokens`, the sum), in one operation with the division.

    Raises ValueError for an unknown reduction, a mask of another shape, or `batchmean` without a batch.
    """
    check_reduction(reduction)
    if mask is None and reduction != "tokens":
        return _scaled(losses.sum(), scale / unmasked_divisor(reduction, losses.shape, num_classes))
    if mask is not None:
        check_mask(losses, mask)
        weights = mask.to(losses.dtype)
        losses = losses.masked_fill(weights == 0, 0) * weights  # the product alone would keep a padded NaN
    total = losses.sum()
    if reduction == "sum":
        return _scaled(total, scale)
    if reduction == "batchmean":
        return _scaled(total, scale / unmasked_divisor(reduction, losses.shape, num_classes))
    if reduction == "tokens":
        count = losses.new_full((), losses.numel()) if mask is None else count_positions(mask, losses.dtype)
        return _scaled(total, scale), count
    assert mask is not None
    divisor = num_classes if reduction == "elementwise_mean" else 1
    return divide(_scaled(total, scale), count_positions(mask, losses.dtype) * divisor)


def unmasked_divisor(reduction: str, shape: Sequence[int], num_classes: int) -> int:
    """Return what the sum of losses of `shape` is divided by where every position counts.

    For losses that are summed in one go with their gradient. Raises ValueError for `batchmean` without a batch.
    """
    if reduction == "sum":
        return 1
    if reduction == "batchmean":
        if not shape:
            raise ValueError(
                "reduction 'batchmean' divides by the batch size, but there is only one distribution: use 'sum'"
            )
        return max(shape[0], 1)
    return max(math.prod(shape) * (num_classes if reduction == "elementwise_mean" else 1), 1)


def _scaled(total: Tensor, scale: float) -> Tensor:
    return total if scale == 1 else total * scale


def count_positions(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return how many positions a mask counts: the sum of its weights, a scalar on the mask's device."""
    return mask.sum(dtype=dtype)


def divide(total: Tensor, count: Tensor) -> Tensor:
    """Return `total / count`, and 0 with a gradient of 0 where nothing was counted (then `total` is 0 too)."""
    return total / count.where(count != 0, 1)


def check_mask(losses: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless the mask has one entry per distribution."""
    if mask.shape != losses.shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; it needs one entry per distribution, {tuple(losses.shape)}: "
            "the shape of the logits without their class dimension"
        )
