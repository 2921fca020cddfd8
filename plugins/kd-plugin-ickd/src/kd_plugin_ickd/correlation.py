"""Differences of channel correlations and their gradients, in the cheaper of two exact forms.

The correlations of a sample are G = R F F^T with F (C, n) and R the diagonal matrix that divides rows by their norms.
With D = G_student - G_teacher, a squared norm of D has the gradient

    2 (H + H^T) F_student        H = R_student (D - c G_student),   c_i = <D_i, G_i> of the student

since a row of G keeps its length, so that what points along it is without effect. Where there are few positions n,
positions.py does without any matrix of C x C.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from kd_plugin_ickd.positions import EPS, by_positions
from kdcore.blocks import sample_blocks
from kdcore.gradient import with_gradient

# Fewer numbers than these in all C x C matrices of one side cost less than the many small steps of the other form.
WORTHWHILE = 2**16


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return sum_b ||G_student - G_teacher||_F^2 for maps (B, C, n) of as many channels, in float32 or float64.

    The teacher gets no gradient; the student's is first order.
    """
    few = few_positions(student, teacher)
    form = by_positions if few else by_channels
    channels, positions = student.shape[1:]
    with torch.no_grad():
        blocks = sample_blocks(student, channels * (positions if few else max(channels, positions)))
        gradient = torch.empty(student.shape, dtype=student.dtype, device=student.device)
        values = [form(student[block], teacher[block], gradient[block]) for block in blocks]
        value = values[0] if len(values) == 1 else torch.stack(values).sum()
    return with_gradient(student, value, gradient)


def few_positions(student: Tensor, teacher: Tensor) -> bool:
    """Say whether products of n x n are cheaper than those of C x C, as measured on CPUs."""
    batch, channels, positions = student.shape
    fits = positions == teacher.shape[2] and 4 * positions <= channels
    return fits and batch * channels**2 >= WORTHWHILE


def by_channels(student: Tensor, teacher: Tensor, gradient: Tensor) -> Tensor:
    """Return the sum for a block of samples from the correlations themselves, and write `gradient`."""
    own, own_scale = _gram_and_scale(student)
    theirs, scale = _gram_and_scale(teacher)
    # Each side is rounded as the other is, so that equal maps differ by 0: a fused product and difference would not.
    difference = torch.sub(own.mul_(own_scale), theirs.mul_(scale), out=theirs)
    value: Tensor = torch.linalg.vector_norm(difference).square()
    along = torch.linalg.vecdot(difference, own).unsqueeze(2)
    slope = difference.addcmul_(own, along, value=-1).mul_(2 * own_scale)
    torch.bmm(torch.add(slope, slope.mT, out=own), student, out=gradient)
    return value


def _gram_and_scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return F F^T and the diagonal of R, (B, C, 1)."""
    gram = torch.bmm(features, features.mT)
    norms: Tensor = torch.linalg.vector_norm(gram, dim=2, keepdim=True)
    return gram, norms.masked_fill(norms <= EPS * norms.amax(1, keepdim=True), inf).reciprocal_()
