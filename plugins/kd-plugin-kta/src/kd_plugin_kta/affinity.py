"""Distances of affinities: how alike the positions of a feature map are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kd_plugin_kta.position import sum_by_position
from kdcore.precision import without_autocast
from kdcore.reduction import check_reduction
from kdcore.shapes import check_rank, check_same_batch, check_same_shape

AXES = ("position", "channel")


class AffinityLoss(nn.Module):
    """Distance of the matrices that say how alike any two positions of a feature map are.

        position   a_ij = <f_i, f_j> / (||f_i|| ||f_j||)     f_i the channels at position i
                   ||A_student - A_teacher||_F / n           n positions
        channel    sum_c ||a_c a_c' - b_c b_c'||_F / n       a_c, b_c a channel's positions, of length one

    He et al.: Knowledge Adaptation for Efficient Semantic Segmentation, 2019, equations 4 and 5, which do not
    divide by n; a map's resolution would decide on the weight. `channel` is the form of torchdistill. A vector of
    zeros stays zero.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32. With `position` the gradient is made
    with the value, and first order.

    Arguments:
        axis: `position` or `channel`.
        reduction: `mean` or `sum` over the batch.
        eps: the length up to which a vector counts as zero, 0 or more.
    """

    def __init__(self, axis: str = "position", reduction: str = "mean", eps: float = 1e-12) -> None:
        super().__init__()
        if axis not in AXES:
            raise ValueError(f"axis is {axis!r}; it must be one of {', '.join(AXES)}")
        if not eps >= 0:
            raise ValueError(f"eps is {eps}; it must be 0 or more")
        check_reduction(reduction, ("mean", "sum"))
        self.axis = axis
        self.reduction = reduction
        self.eps = eps

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare feature maps (B, C, *spatial) of one spatial size; with `position`, C may differ.

        Raises ValueError where shapes do not fit.
        """
        self._check(student, teacher)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        own, theirs = (each.flatten(2).to(dtype) for each in (student, teacher.detach()))
        if self.axis == "position":
            total = sum_by_position(own, theirs, self.eps)
        else:
            total = by_channel(self._unit(own), self._unit(theirs)).sum()
        return total / (own.shape[2] * (len(own) if self.reduction == "mean" else 1))

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"axis={self.axis!r}, reduction={self.reduction!r}, eps={self.eps}"

    def _unit(self, rows: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        return rows / torch.where(length > self.eps, length, 1)

    def _check(self, student: Tensor, teacher: Tensor) -> None:
        check_rank(3, 5, student=student, teacher=teacher)
        if self.axis == "channel":
            check_same_shape(student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"student has shape {tuple(student.shape)} but teacher has {tuple(teacher.shape)}; their spatial sizes "
                "must be equal: choose layers of one resolution, or put a resize adapter before one of them"
            )


def by_channel(s: Tensor, t: Tensor) -> Tensor:
    """Return sum_c ||a_c a_c' - b_c b_c'||_F of each sample, for rows a_c of S (B, C, n) and b_c of T.

    Rows are of length 1, or 0 up to what counts as such.
    """
    sides = [torch.linalg.vector_norm(each, dim=2) for each in (s + t, s - t)]
    # <a + b, a - b> is the difference of the squared lengths, which features do not change.
    alive = [torch.linalg.vector_norm(each.detach(), dim=2) > 0.5 for each in (s, t)]
    uneven = (alive[0] != alive[1]).to(s.dtype)
    even: Tensor = (sides[0] * sides[1] * (1 - uneven)).sum(1)
    total: Tensor = even / math.sqrt(2) + uneven.sum(1)
    return total
