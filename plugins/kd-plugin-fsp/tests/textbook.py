"""The flow between layers as its paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the flow matrices (B, C1, C2) of maps of one size."""
    first, second = first.flatten(2), second.flatten(2)
    return torch.bmm(first, second.transpose(1, 2)) / first.shape[2]


def fsp(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    norm: str = "frobenius",
) -> Tensor:
    """Return the mean over samples of the norm of the difference."""
    difference = flow(student_first, student_second) - flow(teacher_first.detach(), teacher_second.detach())
    squares = difference.square().sum(1)
    return (squares if norm == "frobenius" else squares.sqrt()).sum() / len(student_first)
