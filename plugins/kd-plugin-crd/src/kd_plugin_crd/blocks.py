"""The noise-contrastive loss of one view by blocks that stay in a CPU's cache, where Z is known beforehand.

What is made of the scores is made at once, so that no matrix of samples by candidates is kept between value and
gradient. Rows of the bank are read either all, one after the other, with a count of how often each is a candidate
of each sample, or as the candidates name them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to so many times more rows than negatives, products with all rows cost less than copies of those that are named.
COUNTED = 12
# Elements that a block of scores, and one of copied rows, may have for each thread.
SCORES = 2**16
ROWS = 2**17
# Below this log1p(-sigmoid(x)) is as exact as softplus(x), which takes twice the time.
SMALL = 2.0


class Candidates:
    """What both views need to know of the candidates (B, K + 1) for banks of so many rows, the positive first."""

    def __init__(self, index: Tensor, num_rows: int) -> None:
        self.positives = index[:, 0]
        self.negatives = index[:, 1:]
        self.noise = self.negatives.shape[1] / num_rows
        self.counts = _counts(self.negatives, num_rows) if num_rows <= COUNTED * self.negatives.shape[1] else None

    def contrast(
        self, embedding: Tensor, bank: Tensor, log_normalizer: Tensor, temperature: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient for embeddings (B, D) and a bank (N, D).

            L = 1/B sum_b [softplus(-x_b0) + sum_k softplus(x_bk)] + K log1p(eps / c)
            x = <v, m> / temperature - log Z - log(c + eps),    c = K / N

        Arguments:
            log_normalizer: log Z.
            temperature, eps: as in the equation.
        """
        batch, count = self.negatives.shape
        shift = log_normalizer + math.log(self.noise + eps)
        scaled = embedding / temperature
        rows = bank.index_select(0, self.positives)
        excess = shift - (scaled * rows).sum(1)
        value = F.softplus(excess, threshold=40).sum()
        gradient = rows.mul_(excess.sigmoid_().neg_().unsqueeze(1))
        if self.counts is None:
            value += _over_copies(scaled, bank, self.negatives, shift, gradient)
        else:
            value += _over_counts(scaled, bank, self.counts, shift, gradient)
        return value / batch + count * math.log1p(eps / self.noise), gradient.div_(batch * temperature)


def _over_counts(scaled: Tensor, bank: Tensor, counts: Tensor, shift: Tensor, gradient: Tensor) -> Tensor:
    """Return what negatives cost by products with all rows, and add their gradient."""
    value = scaled.new_zeros(())
    for places in _split(len(bank), SCORES * torch.get_num_threads() // len(scaled)):
        rows = bank[places]
        times = counts[:, places].to(scaled.dtype)
        costs, slopes = _softplus((scaled @ rows.T).sub_(shift))
        value += costs.mul_(times).sum()
        gradient.addmm_(slopes.mul_(times), rows)
    return value


def _over_copies(scaled: Tensor, bank: Tensor, index: Tensor, shift: Tensor, gradient: Tensor) -> Tensor:
    """Return the same by copying the rows that `index` names."""
    value = scaled.new_zeros(())
    most = ROWS * torch.get_num_threads() // bank.shape[1]
    for samples in _split(len(index), most // index.shape[1]):
        for places in _split(index.shape[1], most):
            chosen = index[samples, places]
            rows = bank.index_select(0, chosen.flatten()).view(*chosen.shape, -1)
            costs, slopes = _softplus(torch.bmm(rows, scaled[samples].unsqueeze(2)).sub_(shift))
            value += costs.sum()
            gradient[samples].unsqueeze(1).baddbmm_(slopes.mT, rows)
    return value


def _softplus(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Return softplus(x) and its derivative, and overwrite x."""
    if excess.amax() < SMALL:
        slopes = excess.sigmoid_()
        return slopes.neg().log1p_().neg_(), slopes
    return F.softplus(excess, threshold=40), excess.sigmoid_()


def _counts(index: Tensor, num_rows: int) -> Tensor:
    """Return how often each row is named by each sample, (B, N), in the narrowest type that can hold it."""
    dtype = next(each for each in (torch.uint8, torch.int16, torch.int32) if index.shape[1] <= torch.iinfo(each).max)
    one = torch.ones((), dtype=dtype).expand_as(index)
    return torch.zeros(len(index), num_rows, dtype=dtype).scatter_add_(1, index, one)


def _split(length: int, step: int) -> list[slice]:
    return [slice(start, start + max(1, step)) for start in range(0, length, max(1, step))]
