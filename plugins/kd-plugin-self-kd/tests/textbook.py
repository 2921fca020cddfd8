"""The three divergences of self-distillation from their definitions."""

from __future__ import annotations

from torch import Tensor


def self_kd(student: Tensor, teacher: Tensor, divergence: str = "cross_entropy", temperature: float = 1.0) -> Tensor:
    """Return one value per distribution, for `l2` per sample."""
    if divergence == "l2":
        return ((student - teacher) ** 2).flatten(1).sum(1)
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    own = (p * p.log()).sum(-1) if divergence == "kl" else 0
    return own - (p * q.log()).sum(-1)
