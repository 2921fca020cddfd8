"""Inter-channel correlation as its paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def correlations(features: Tensor) -> Tensor:
    """Return the correlations of all channels (B, C, C), rows divided by their norms."""
    flat = features.flatten(2)
    gram = torch.bmm(flat, flat.transpose(1, 2))
    return gram / gram.square().sum(2, keepdim=True).sqrt()


def ickd(student: Tensor, teacher: Tensor, batch_exponent: int = 1) -> Tensor:
    """Return the squared difference over channels and a power of the batch size."""
    total = (correlations(student) - correlations(teacher.detach())).square().sum()
    return total / (student.shape[1] * student.shape[0] ** batch_exponent)
