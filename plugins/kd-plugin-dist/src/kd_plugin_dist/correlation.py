"""Pearson's correlation, with a gradient for one side and none of its poles."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.rounding import length_left


def correlation(student: Tensor, teacher: Tensor, dim: int, eps: float) -> Tensor:
    """Return the correlation of both along `dim`, from -1 to 1.

        r = <s, t> / (|s| |t|)      s and t centred along `dim`

    Where one side is constant up to rounding, or |s| |t| is at most eps^2, r is 0 and so is its gradient. The
    gradient reaches the student only.
    """
    fixed, teacher = student.detach(), teacher.detach()
    means = fixed.mean(dim), teacher.mean(dim)
    # r does not change with the mean, so its gradient through the mean is 0 and need not be computed.
    centred, wanted = student - means[0].unsqueeze(dim), teacher - means[1].unsqueeze(dim)
    # The norm's own gradient is 0 at 0, unlike the square root's.
    own, theirs = (torch.linalg.vector_norm(side, dim=dim) for side in (centred, wanted))
    left = length_left(student.shape[dim], student.dtype)
    beyond = torch.minimum(own.detach().sub(means[0].abs_(), alpha=left), theirs.sub(means[1].abs_(), alpha=left))
    # The teacher's length carries no gradient, so setting it costs the backward pass nothing.
    product = own * theirs.masked_fill_(beyond <= 0, 0)
    return (centred * wanted).sum(dim) / F.threshold(product, eps * eps, math.inf)
