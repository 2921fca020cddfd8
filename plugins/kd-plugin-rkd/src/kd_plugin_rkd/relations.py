"""Distances and angles among the samples of a batch, compared without tensors of B x B x D.

Angles follow from distances alone. With the distances d of three samples, the cosine at j is

    cos_ijk = (d_ij^2 + d_jk^2 - d_ik^2) / (2 d_ij d_jk)

so both parts of the loss are functions of the student's squared distances. Their gradient W, one
number per pair, is made together with the value, block by block over j while a block of cosines is
in the cache; features are touched again in the backward pass only, by one product of matrices.

Where i and j are close, the distances to k are nearly equal and their squares cancel: of a cosine's digits
as many are lost as d_jk / d_ij has. Features whose distances span much are therefore computed in float64, from
the distances on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.precision import without_autocast

# Cosines per block. A CPU wants its cache, a GPU enough work per kernel to hide its launch.
CPU_BLOCK = 2**17
DEVICE_BLOCK = 2**22

# What float32 bears: the largest of the distances over the least, and how far the largest is from 1, either way.
SPREAD = 2.0**6
REACH = 2.0**48


def relational_loss(student: Tensor, teacher: Tensor, distance_scale: float, angle_scale: float) -> Tensor:
    """Return the scaled sums of the Huber losses of normalised distances and of cosines.

    Arguments:
        student, teacher: features (B, D) and (B, D') of one floating dtype, B of 2 or more.
        distance_scale: multiplies the sum over the B x B normalised distances; 0 leaves them out.
        angle_scale: multiplies the sum over the B x B x B cosines; 0 leaves them out.

    The gradient reaches the student only, once.
    """
    loss: Tensor = _Relations.apply(student, teacher.detach(), distance_scale, angle_scale)  # type: ignore[no-untyped-call]
    return loss


class _Relations(torch.autograd.Function):
    """The loss, and its gradient for the student's squared distances."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, distance_scale: float, angle_scale: float) -> Tensor:
        pairs = _distances(student, teacher)
        upper = tuple(torch.triu_indices(len(student), len(student), 1, device=student.device))
        loss, gradient = pairs.new_zeros(()), pairs.new_zeros(len(student), len(student))
        if distance_scale:
            loss, gradient[upper] = _compare_distances(pairs[0], pairs[1], distance_scale)
        if angle_scale:
            square = pairs.new_zeros(2, *gradient.shape)
            square[:, *upper] = pairs
            loss = loss + _compare_angles(square + square.mT, gradient, angle_scale)
        # One distance stands at (i, j) and (j, i).
        ctx.save_for_backward(student, gradient + gradient.T)
        return loss.to(student.dtype)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        student, gradient = ctx.saved_tensors
        features = student.to(gradient.dtype)
        # sum_j w_ij (x_i - x_j) for all i at once; a common offset of the x only costs precision.
        laplacian = gradient.sum(1).diag() - gradient
        return (laplacian @ (features - features.mean(0)) * (2 * upstream)).to(student.dtype), None, None, None


def _distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distances (2, B (B - 1) / 2) of both, in the dtype in which they are to be compared."""
    # Differences first: a Gram matrix would lose the distance of two samples that are close.
    if _decides(student):
        pairs = torch.stack([torch.pdist(student), torch.pdist(teacher)])
        if student.dtype == torch.float64 or _bearable(pairs):
            return pairs
    return torch.stack([torch.pdist(student.double()), torch.pdist(teacher.double())])


def _decides(features: Tensor) -> bool:
    """Whether distances can be looked at: on an accelerator that would stall the step, float64 does not."""
    return features.dtype == torch.float64 or (features.device.type == "cpu" and not torch.compiler.is_compiling())


def _bearable(pairs: Tensor) -> bool:
    """Whether float32 suffices for the distances (2, P) of both; those of samples that coincide do not count."""
    lows, highs = (each.tolist() for each in pairs.aminmax(dim=1))
    if 0 in lows:
        lows = pairs.masked_fill(pairs == 0, math.inf).amin(1).tolist()
    return all(high < SPREAD * low and 1 / REACH < high < REACH for low, high in zip(lows, highs, strict=True))


def _compare_distances(student: Tensor, teacher: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the loss of distances over their mean, and its gradient by the student's squared ones.

    The distances are those of each pair of samples once; (i, j) and (j, i) both count.
    """
    inverse = _inverse(student.mean())
    normalised = student * inverse
    difference = normalised - teacher * _inverse(teacher.mean())
    slope = difference.clamp(-1, 1)
    loss = 2 * scale * (slope * (difference - slope / 2)).sum()
    # Twice for the pair and its mirror, half for the square.
    by_distance = scale * inverse * (slope - (slope * normalised).mean())
    return loss, by_distance * _inverse(student)


def _compare_angles(distances: Tensor, gradient: Tensor, scale: float) -> Tensor:
    """Return the loss of the cosines; adds its gradient by the student's squared distances to `gradient`.

    The distances are those of student and teacher, (2, B, B).
    """
    squares, inverses = distances.square(), _inverse(distances)
    shrinking = inverses[0].square() * scale
    total = distances.new_zeros(())
    for block in _blocks(gradient):
        outer, cosine = _cosines(squares[0], inverses[0], block)
        difference = cosine - _cosines(squares[1], inverses[1], block)[1]
        slope = difference.clamp(-1, 1)
        total += (slope * difference.sub_(slope, alpha=0.5)).sum()
        by_length = cosine.mul_(slope).sum(-1)
        by_numerator = slope.mul_(outer)
        gradient[block].add_(by_numerator.sum(-1), alpha=scale).sub_(by_length * shrinking[block])
        gradient.sub_(by_numerator.sum(0), alpha=scale / 2)
    return total * scale


def _cosines(squares: Tensor, inverses: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Return 1 / (d_ij d_jk) and the cosines at the samples j of a block, each (block, B, B)."""
    near, inverse = squares[block], inverses[block]
    outer = inverse.unsqueeze(2) * inverse.unsqueeze(1)
    numerator = (near.unsqueeze(2) + near.unsqueeze(1)).sub_(squares)
    return outer, numerator.mul_(outer).div_(2)


def _blocks(square: Tensor) -> Iterator[slice]:
    size = max((CPU_BLOCK if square.device.type == "cpu" else DEVICE_BLOCK) // square.numel(), 1)
    for start in range(0, len(square), size):
        yield slice(start, start + size)


def _inverse(distance: Tensor) -> Tensor:
    """Return 1 / distance, and 0 where samples coincide: they have no direction."""
    return torch.where(distance > 0, distance.reciprocal(), 0)
