"""Both losses as their equations say, matrices and all."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vectors: Tensor, dim: int, q: float = 2) -> Tensor:
    """Vectors of length one; those of zeros stay zero."""
    length = torch.linalg.vector_norm(vectors, q, dim=dim, keepdim=True)
    return vectors / torch.where(length > 0, length, 1)


def kta(student: Tensor, teacher: Tensor, p: float = 1, q: float = 2) -> Tensor:
    """The distance of normalised features."""
    difference = unit(student.flatten(1), 1, q) - unit(teacher.flatten(1), 1, q)
    if p == 1:
        return difference.abs().mean()
    return difference.abs().pow(p).sum(1).pow(1 / p).mean()


def by_position(student: Tensor, teacher: Tensor) -> Tensor:
    """The distance of matrices of positions x positions."""
    s, t = (unit(each.flatten(2), 1) for each in (student, teacher))
    difference = s.transpose(1, 2) @ s - t.transpose(1, 2) @ t
    return torch.linalg.vector_norm(difference.flatten(1), dim=1).mean() / s.shape[2]


def by_channel(student: Tensor, teacher: Tensor) -> Tensor:
    """One matrix of positions x positions for each channel."""
    s, t = (unit(each.flatten(2), 2) for each in (student, teacher))
    total = torch.zeros(len(s), dtype=s.dtype)
    for channel in range(s.shape[1]):
        a, b = s[:, channel], t[:, channel]
        difference = a.unsqueeze(2) @ a.unsqueeze(1) - b.unsqueeze(2) @ b.unsqueeze(1)
        total = total + torch.linalg.vector_norm(difference.flatten(1), dim=1)
    return total.mean() / s.shape[2]
