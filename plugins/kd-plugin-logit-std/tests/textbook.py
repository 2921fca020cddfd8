"""Standardised distillation as the paper's algorithm 1 writes it."""

from __future__ import annotations

from torch import Tensor


def standardised(logits: Tensor, dim: int) -> Tensor:
    """Return logits of mean 0 and deviation 1."""
    centred = logits - logits.mean(dim, keepdim=True)
    variance = (centred**2).sum(dim, keepdim=True) / (logits.shape[dim] - 1)
    return centred / (1e-7 + variance.sqrt())


def logit_std_kd(student: Tensor, teacher: Tensor, temperature: float = 2.0, dim: int = -1) -> Tensor:
    """Return one value per distribution, times the squared temperature."""
    q = (standardised(student, dim) / temperature).softmax(dim)
    p = (standardised(teacher, dim) / temperature).softmax(dim)
    return temperature**2 * (p * (p / q).log()).sum(dim)
