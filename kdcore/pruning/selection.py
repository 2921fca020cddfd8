"""Which blocks go: exactly as many as asked, the lowest scores first, within each layer's bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.pruning.threshold import Pool, around, chunks, kth_smallest

# A share of 0.29 of 100 is 28.999999999999996 in floating point, and means 29.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Stock:
    """What a layer offers to a selection.

    Arguments:
        blocks: how many it has.
        size: the number of weights that go with a block.
        weights: how many weights it has, those included that no block takes along.
    """

    blocks: int
    size: int
    weights: int

    def at_most(self, sparsity: float) -> int:
        """Return the most blocks that leave it no sparser than `sparsity`."""
        return min(self.blocks, math.floor(sparsity * self.weights / self.size + _ROUNDING))

    def at_least(self, sparsity: float) -> int:
        """Return the fewest blocks that make it as sparse as `sparsity`."""
        return min(self.blocks, max(0, math.ceil(sparsity * self.weights / self.size - _ROUNDING)))


@dataclass(frozen=True)
class Limits:
    """The fewest and the most blocks of each layer."""

    low: tuple[int, ...]
    high: tuple[int, ...]

    @classmethod
    def of(cls, stocks: Sequence[Stock], sparsity: float, least: float, most: float, *, final: bool) -> Limits:
        """Return the limits at a moment of the schedule.

        On the way to the target a layer need not be sparser than all are; at the end it must have its minimum.
        """
        high = tuple(each.at_most(most) for each in stocks)
        low = (each.at_least(least) if final else min(each.at_least(least), each.at_most(sparsity)) for each in stocks)
        return cls(tuple(min(pair) for pair in zip(low, high, strict=True)), high)


def budget(stocks: Sequence[Stock], sparsity: float) -> int:
    """Return how many weights of all may go."""
    return math.floor(sparsity * sum(each.weights for each in stocks) + _ROUNDING)


def local_counts(stocks: Sequence[Stock], sparsity: float, limits: Limits) -> list[int]:
    """Return how many blocks of each layer go if each is as sparse as asked."""
    return [
        max(low, min(high, stock.at_most(sparsity)))
        for stock, low, high in zip(stocks, limits.low, limits.high, strict=True)
    ]


def global_counts(
    scores: Sequence[Tensor], stocks: Sequence[Stock], sparsity: float, limits: Limits
) -> tuple[list[int], float | None]:
    """Return how many blocks of each layer go if the lowest scores of all layers go, within the limits.

    Of all choices that keep to the limits and the budget it is the one with the lowest scores: each layer gives its
    `low` lowest, and what is left of the budget goes to the lowest of those that no limit holds back. Of equal scores
    the earlier layer's go first. Where blocks have different sizes, selection ends before the first that would exceed
    the budget. With the counts comes the threshold that they follow from, if there is one.
    """
    forced = sum(low * stock.size for low, stock in zip(limits.low, stocks, strict=True))
    left = max(0, budget(stocks, sparsity) - forced)
    if len({stock.size for stock in stocks}) == 1:
        open_blocks = sum(limits.high) - sum(limits.low)
        return _equal_sizes(scores, limits, min(left // stocks[0].size, open_blocks))
    return _different_sizes(scores, stocks, limits, left), None


def _equal_sizes(scores: Sequence[Tensor], limits: Limits, count: int) -> tuple[list[int], float | None]:
    total = count + sum(limits.low)
    if count == 0 or total == sum(limits.high):
        return list(limits.high if count else limits.low), None
    pool = Pool(scores)
    threshold = kth_smallest(pool.vector, total)
    found = _shares([around(each, threshold) for each in scores], total)
    if all(low <= each <= high for low, each, high in zip(limits.low, found, limits.high, strict=True)):
        # As a rule no limit is touched, and one threshold over everything will do.
        return found, threshold
    pool.fill(scores)
    threshold = kth_smallest(pool.narrow(limits.low, limits.high), count)
    counts = [
        (min(max(below, low), high), min(max(up_to, low), high))
        for (below, up_to), low, high in zip(
            (around(each, threshold) for each in scores), limits.low, limits.high, strict=True
        )
    ]
    return _shares(counts, total), threshold


def _shares(counts: Sequence[tuple[int, int]], total: int) -> list[int]:
    """Return of each layer what lies below the threshold, and of what lies on it, first come first, what is left."""
    left = total - sum(below for below, _ in counts)
    found = []
    for below, up_to in counts:
        more = min(left, up_to - below)
        left -= more
        found.append(below + more)
    return found


def _different_sizes(scores: Sequence[Tensor], stocks: Sequence[Stock], limits: Limits, left: int) -> list[int]:
    candidates, sizes, owners = [], [], []
    for index, (each, stock, low, high) in enumerate(zip(scores, stocks, limits.low, limits.high, strict=True)):
        found = each.reshape(-1).double().sort(stable=True).values[low:high]
        candidates.append(found)
        sizes.append(torch.full_like(found, stock.size, dtype=torch.int64))
        owners.append(torch.full_like(found, index, dtype=torch.int64))
    order = torch.cat(candidates).argsort(stable=True)
    taken = int((torch.cat(sizes)[order].cumsum(0) <= left).sum())
    more = torch.bincount(torch.cat(owners)[order[:taken]], minlength=len(stocks)).tolist()
    return [low + each for low, each in zip(limits.low, more, strict=True)]


def lowest(scores: Tensor, count: int, threshold: float | None = None) -> Tensor:
    """Mark the `count` lowest scores, exactly; of equal ones the first.

    Arguments:
        scores: of any shape.
        count: how many.
        threshold: a value that may be the largest of them, which saves looking for it.
    """
    flat = scores.reshape(-1)
    if count <= 0 or count >= len(flat):
        return torch.full(scores.shape, count > 0, dtype=torch.bool, device=scores.device)
    marked = None if threshold is None else _mark(flat, count, threshold)
    if marked is None:
        marked = _mark(flat, count, kth_smallest(Pool([flat]).vector, count))
    assert marked is not None
    return marked.reshape(scores.shape)


def _mark(flat: Tensor, count: int, threshold: float) -> Tensor | None:
    """Mark `count` scores, those below the threshold and the first on it; None where there are not so many."""
    marked = flat < threshold
    left = count - int(torch.count_nonzero(marked))
    if left < 0:
        return None
    start = 0
    for chunk in chunks(flat):
        if not left:
            break
        ties = (chunk == threshold).nonzero()[:left, 0]
        marked[start + ties] = True
        left -= len(ties)
        start += len(chunk)
    return marked if left == 0 else None
