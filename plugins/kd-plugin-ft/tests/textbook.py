"""Factor transfer as its paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def ft(student: Tensor, teacher: Tensor, p: float = 1, reduction: str = "mean") -> Tensor:
    """Return the norms of the difference of factors of length one."""
    distances = []
    for own, theirs in zip(student.flatten(1), teacher.detach().flatten(1), strict=True):
        difference = own / own.square().sum().sqrt() - theirs / theirs.square().sum().sqrt()
        distances.append(difference.abs().pow(p).sum().pow(1 / p))
    losses = torch.stack(distances)
    size = student[0].numel() ** (1 / p)
    return {"mean": losses.mean() / size, "batchmean": losses.mean(), "sum": losses.sum()}[reduction]


def at_once(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the default form, as most people write it."""
    student, teacher = student.flatten(1), teacher.detach().flatten(1)
    student, teacher = torch.nn.functional.normalize(student), torch.nn.functional.normalize(teacher)
    return torch.nn.functional.l1_loss(student, teacher)
