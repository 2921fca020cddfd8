"""Pearson's correlation, with a gradient for one side and none of its poles."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def correlation(student: Tensor, teacher: Tensor, dim: int, eps: float) -> Tensor:
    """Return the correlation of both along `dim`, from -1 to 1.

        r = <s, t> / (|s| |t|)      s and t centred along `dim`

    Where |s| |t| is at most eps^2, as where one side is constant, r is 0 and so is its gradient. The
    gradient reaches the student only.
    """
    teacher = teacher.detach()
    wanted = teacher - teacher.mean(dim, keepdim=True)
    # r does not change with the mean, so its gradient through the mean is 0 and need not be computed.
    centred = student - student.detach().mean(dim, keepdim=True)
    # The norm's own gradient is 0 at 0, unlike the square root's.
    lengths: Tensor = torch.linalg.vector_norm(centred, dim=dim) * torch.linalg.vector_norm(wanted, dim=dim)
    divisor = lengths.masked_fill(lengths <= eps * eps, math.inf)
    return (centred * wanted).sum(dim) / divisor
