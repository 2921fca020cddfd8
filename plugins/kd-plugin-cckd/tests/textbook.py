"""Correlation congruence as its paper writes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def correlations(features: Tensor, kernel: str, gamma: float, max_p: int, normalize: bool) -> Tensor:
    """Return the kernel of every pair of samples, row by row."""
    flat = features.reshape(len(features), -1)
    if normalize:
        flat = flat / flat.square().sum(1, keepdim=True).sqrt()
    rows = []
    for sample in flat:
        products = (flat * sample).sum(1)
        if kernel == "gaussian":
            powers = range(max_p + 1)
            products = sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * products**p for p in powers)
        rows.append(products)
    return torch.stack(rows)


def cckd(
    student: Tensor,
    teacher: Tensor,
    kernel: str = "gaussian",
    gamma: float = 0.4,
    max_p: int = 2,
    normalize: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """Return the squared Frobenius norm of the difference, divided by the batch size squared for `batchmean`."""
    options = kernel, gamma, max_p, normalize
    total = (correlations(student, *options) - correlations(teacher.detach(), *options)).square().sum()
    return total / len(student) ** 2 if reduction == "batchmean" else total
