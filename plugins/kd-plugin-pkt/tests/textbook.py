"""Probabilistic knowledge transfer as its paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def neighbours(features: Tensor, eps: float) -> Tensor:
    """Return the probability of choosing sample j as the neighbour of sample i."""
    flat = features.reshape(len(features), -1)
    unit = flat / (flat.square().sum(1, keepdim=True).sqrt() + eps)
    kernel = (torch.mm(unit, unit.T) + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)


def pkt(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the mean over all pairs of the divergence's parts."""
    theirs, own = neighbours(teacher.detach(), eps), neighbours(student, eps)
    return (theirs * torch.log((theirs + eps) / (own + eps))).mean()
