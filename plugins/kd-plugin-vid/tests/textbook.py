"""Variational information distillation as its paper writes it."""

from __future__ import annotations

from torch import Tensor


def vid(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean negative log-likelihood without its constant."""
    log_deviation = variance.sqrt().log()
    return (log_deviation + (teacher.detach() - mean) ** 2 / (2 * variance)).mean()
