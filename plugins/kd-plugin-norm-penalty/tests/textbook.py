"""The p-norm from its definition."""

from __future__ import annotations

from torch import Tensor


def norm_penalty(input: Tensor, p: float = 1) -> Tensor:
    """Sum the powers of all elements and take the root."""
    return (input.abs() ** p).sum() ** (1 / p)
