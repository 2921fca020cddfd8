"""Differences of flow matrices, in the cheaper of two exact forms.

The flow matrix of a sample is G = F S^T / n, with F (C1, n) and S (C2, n) of n positions. With
D = n (G_student - G_teacher), a squared norm of D has the gradients 2 D S_student for F and 2 D^T F_student for S.
Where there are few positions, the C1 x C2 numbers of D cost more than they say: with d = F_student - F_teacher and
e = S_student - S_teacher,

    D         =  d S_student^T + F_teacher e^T
    ||D||^2   =  <d^T d, S^T S> + 2 <d^T F_teacher, S^T e> + <F_teacher^T F_teacher, e^T e>        S the student's
    D S       =  d (S^T S) + F_teacher (e^T S)
    D^T F     =  S (d^T F) + e (F_teacher^T F)                                                     F the student's

need products of n x n only. As each of them holds a difference, nothing cancels where student and teacher are close.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore.blocks import sample_blocks
from kdcore.gradient import with_gradient

Pair = tuple[Tensor, Tensor]

# Fewer numbers than these in all flow matrices of one side cost less than the many small steps of the other form.
WORTHWHILE = 2**16


def squared_difference(student: Pair, teacher: Pair) -> Tensor:
    """Return sum_b ||G_student - G_teacher||_F^2 for maps (B, C1, n) and (B, C2, n) of each side.

    The teacher gets no gradient. With few positions the student's are made with the value, and first order.
    """
    if not few_positions(student, teacher):
        return difference(student, teacher).square().sum()
    first, second = student
    with torch.no_grad():
        blocks = sample_blocks(first, max(first.shape[1], second.shape[1]) * first.shape[2])
        gradients = [torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in student]
        values = [
            by_positions(*((one[block], two[block]) for one, two in (student, teacher, gradients))) for block in blocks
        ]
        value = values[0] if len(values) == 1 else torch.stack(values).sum()
        nothing = torch.zeros_like(value)
    return with_gradient(first, value, gradients[0]) + with_gradient(second, nothing, gradients[1])


def few_positions(student: Pair, teacher: Pair) -> bool:
    """Say whether products of n x n are cheaper than those of C1 x C2, as measured on CPUs."""
    first, second = student
    positions, channels = first.shape[2], (first.shape[1], second.shape[1])
    numbers = channels[0] * channels[1]
    fits = positions == teacher[0].shape[2] and 5 * positions * sum(channels) <= 3 * numbers
    return fits and len(first) * numbers >= WORTHWHILE


def difference(student: Pair, teacher: Pair) -> Tensor:
    """Return G_student - G_teacher, (B, C1, C2)."""
    theirs = torch.bmm(teacher[0], teacher[1].mT) / teacher[0].shape[2]
    return torch.bmm(student[0], student[1].mT) / student[0].shape[2] - theirs


def by_positions(student: Pair, teacher: Pair, gradients: Pair) -> Tensor:
    """Return the sum for a block of samples without any matrix of C1 x C2, and write the gradients."""
    (first, second), (first_teacher, _) = student, teacher
    d, e = first - teacher[0], second - teacher[1]
    first_grams = _gram(d, d), _gram(d, first_teacher), _gram(first_teacher, first_teacher)
    second_grams = _gram(second, second), _gram(second, e), _gram(e, e)
    terms = [(one * other).sum() for one, other in zip(first_grams, second_grams, strict=True)]
    scale = 1 / first.shape[2] ** 2
    from_d = (first_grams[0] + first_grams[1]).mul_(2 * scale)
    from_teacher = (first_grams[2] + first_grams[1].mT).mul_(2 * scale)
    torch.bmm(d, second_grams[0].mul_(2 * scale), out=gradients[0])
    gradients[0].baddbmm_(first_teacher, second_grams[1].mul_(2 * scale).mT)
    torch.bmm(second, from_d, out=gradients[1]).baddbmm_(e, from_teacher)
    return (terms[0] + 2 * terms[1] + terms[2]) * scale


def _gram(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left.mT, right)
