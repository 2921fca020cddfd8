"""The paper's objective, number by number."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_l2(student: Tensor, teacher: Tensor, log_variance: Tensor, eps: float = 1e-6) -> Tensor:
    """Squared distance over variance, plus the logarithm of the variance."""
    s, t, v = (each.flatten(1) for each in (student, teacher, log_variance))
    variance = eps + torch.exp(v)
    return torch.mean(torch.mean((t - s) ** 2 / variance + v, dim=1))
