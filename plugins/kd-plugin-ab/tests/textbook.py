"""Activation boundaries as their paper writes them."""

from __future__ import annotations

import torch
from torch import Tensor


def ab(student: Tensor, teacher: Tensor, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return the squared hinge with the teacher's active neurons as labels."""
    active = (teacher > 0).to(student.dtype)
    rise = active * torch.relu(margin - student) ** 2
    fall = (1 - active) * torch.relu(margin + student) ** 2
    total = (rise + fall).sum()
    return total / len(student) if reduction == "mean" else total
