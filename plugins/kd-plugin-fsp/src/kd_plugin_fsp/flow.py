"""Differences of flow matrices, in the cheaper of two exact forms.

The flow matrix of a sample is G = F S^T / n, with F (C1, n) and S (C2, n) of n positions. Where there are
few positions, its C1 x C2 numbers cost more than they say: with d = F_student - F_teacher and
e = S_student - S_teacher,

    G_student - G_teacher  =  (d S_student^T + F_teacher e^T) / n

and a squared norm of such a sum needs products of n x n only. As each of them holds a difference,
nothing cancels where student and teacher are close.
"""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def squared_difference(student: Pair, teacher: Pair) -> Tensor:
    """Return sum_b ||G_student - G_teacher||_F^2 for maps (B, C1, n) and (B, C2, n) of each side."""
    first, second = student
    _, channels, positions = first.shape
    same_positions = positions == teacher[0].shape[2]
    if same_positions and 2 * positions * (channels + second.shape[1]) <= channels * second.shape[1]:
        return _by_positions(student, teacher) / positions**2
    return difference(student, teacher).square().sum()


def difference(student: Pair, teacher: Pair) -> Tensor:
    """Return G_student - G_teacher, (B, C1, C2)."""
    theirs = torch.bmm(teacher[0], teacher[1].mT) / teacher[0].shape[2]
    return torch.bmm(student[0], student[1].mT) / student[0].shape[2] - theirs


def _by_positions(student: Pair, teacher: Pair) -> Tensor:
    first, second = student
    first_change, second_change = first - teacher[0], second - teacher[1]
    return (
        _inner(_gram(first_change, first_change), _gram(second, second))
        + _inner(_gram(first_change, teacher[0]), _gram(second, second_change)) * 2
        + _inner(_gram(teacher[0], teacher[0]), _gram(second_change, second_change))
    )


def _gram(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left.mT, right)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum()
