"""The direction loss as the paper writes it: the covariance inverted, one distance after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def skd_direction(student: Tensor, teacher: Tensor, tikhonov: float = 0.1) -> Tensor:
    """Logits (B, C)."""
    grams = []
    for logits in (student, teacher):
        directions = logits / (logits * logits).sum(1, keepdim=True).sqrt()
        grams.append(directions @ directions.T)
    difference = grams[0] - grams[1]
    identity = torch.eye(len(difference), dtype=difference.dtype)
    inverse = torch.linalg.inv(torch.cov(difference.T) + tikhonov * identity)
    return ((difference @ inverse) * difference).sum(1).sqrt().mean()
