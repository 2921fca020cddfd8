"""Maximum mean discrepancies between two sets of channels, each sample's summed over the batch.

All take maps (B, C, n) of the student and (B, C', n) of the teacher, whose channels have length one or
zero. With a polynomial kernel the discrepancy is the difference of second moments,

    mean (t . t')^2 + mean (s . s')^2 - 2 mean (t . s)^2  =  ||T^T T / C' - S^T S / C||_F^2

so where there are fewer positions than channels n x n numbers do for the C x C of three kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The least width of the Gaussian, where all channels are one.
NARROWEST = 1e-6


def linear(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distances of the mean channels."""
    return (student.mean(1) - teacher.mean(1)).square().sum()


def polynomial(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the discrepancies under the squared inner product."""
    positions, channels = student.shape[2], student.shape[1]
    if positions <= max(channels, teacher.shape[1]):
        return (_moments(student) - _moments(teacher)).square().sum()
    parts = [torch.bmm(*pair).square().mean((1, 2)).sum() for pair in _pairs(student, teacher)]
    return parts[0] + parts[1] - 2 * parts[2]


def gaussian(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the discrepancies under a Gaussian whose variance is the mean squared distance of student and teacher."""
    # Distances do not change with what all channels have in common, but squares of it would take their digits.
    common = (student.detach().mean(1, keepdim=True) + teacher.mean(1, keepdim=True)) / 2
    student, teacher = student - common, teacher - common
    lengths = student.square().sum(2), teacher.square().sum(2)
    ends = (lengths[0], lengths[0]), (lengths[1], lengths[1]), (lengths[0], lengths[1])
    own, theirs, across = (
        (one.unsqueeze(2) + other.unsqueeze(1)) - 2 * torch.bmm(*pair)
        for pair, (one, other) in zip(_pairs(student, teacher), ends, strict=True)
    )
    width = across.mean((1, 2), keepdim=True).clamp_min(NARROWEST)
    kernels = [torch.exp(squares / (-2 * width)).mean((1, 2)).sum() for squares in (own, theirs, across)]
    return kernels[0] + kernels[1] - 2 * kernels[2]


def _pairs(student: Tensor, teacher: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (student, student.mT), (teacher, teacher.mT), (student, teacher.mT)


def _moments(channels: Tensor) -> Tensor:
    return torch.bmm(channels.mT, channels) / channels.shape[1]


DISCREPANCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "polynomial": polynomial,
    "linear": linear,
    "gaussian": gaussian,
}
