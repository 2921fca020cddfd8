"""The noise-contrastive loss of one view, with its gradient in closed form.

Textbook code copies K + 1 rows of the bank for every sample of the batch, half a gigabyte at the paper's sizes, and
keeps them for the backward pass. Here similarities are either one product with the whole bank, of which the wanted
ones are picked, or are computed a few samples at a time; and the gradient is made together with the value, because the
bank changes before anybody calls backward. What a CPU does from the second batch on is in blocks.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to so many times more rows than candidates, a product with the whole bank is cheaper than copying rows.
WHOLE_BANK = 64
# Elements of copied rows at a time. A CPU wants them in its cache, a GPU enough work to hide the launch.
CPU_BLOCK = 2**21
DEVICE_BLOCK = 2**27


def similarities(embedding: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """Return the products (B, K + 1) of embeddings (B, D) and the rows of the bank (N, D) that `index` names."""
    if _whole(bank, index):
        return (embedding @ bank.T).gather(1, index)
    found = embedding.new_empty(index.shape)
    for block in _blocks(bank, index):
        rows = bank[index[block]]
        torch.bmm(rows, embedding[block].unsqueeze(2), out=found[block].unsqueeze(2))
    return found


def combine(weights: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """Return the sums (B, D) of the rows of the bank that `index` names, each times its weight (B, K + 1)."""
    if _whole(bank, index):
        return weights.new_zeros(len(index), len(bank)).scatter_add_(1, index, weights) @ bank
    return F.embedding_bag(index, bank, mode="sum", per_sample_weights=weights)


def noise_contrast(scores: Tensor, noise: float, eps: float) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient for log-probabilities (B, K + 1), the positive first; overwrites `scores`.

        L = -1/B sum_b [log(p_0 / (p_0 + c + eps)) + sum_k log(c / (p_k + c + eps))]

    In logarithms nothing overflows: with x_k = log p_k - log(c + eps) the positive costs softplus(-x_0) and each
    negative softplus(x_k) + log((c + eps) / c).

    Arguments:
        scores: log p.
        noise: c, how probable a candidate is under the noise, K / N.
        eps: as in the equation.
    """
    batch, candidates = scores.shape
    excess = scores.sub_(math.log(noise + eps))
    excess[:, 0].neg_()
    constant = (candidates - 1) * math.log1p(eps / noise)
    value = F.logsigmoid(-excess).sum().neg() / batch + constant
    slope = excess.sigmoid_().div_(batch)
    slope[:, 0].neg_()
    return value, slope


def _whole(bank: Tensor, index: Tensor) -> bool:
    return len(bank) <= WHOLE_BANK * index.shape[1]


def _blocks(bank: Tensor, index: Tensor) -> list[slice]:
    limit = CPU_BLOCK if bank.device.type == "cpu" else DEVICE_BLOCK
    step = max(1, limit // (index.shape[1] * bank.shape[1]))
    return [slice(start, start + step) for start in range(0, len(index), step)]
