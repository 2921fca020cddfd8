"""How alike the positions of a feature map are.

Textbook code makes matrices of positions x positions. With unit vectors as the columns of S (C, n) and T (C', n),
P = S + T and M = S - T (the narrower one filled with zeros),

    S'S - T'T = (P'M + M'P) / 2
    ||S'S - T'T||^2 = (<PP', MM'> + tr((MP')^2)) / 2

whose matrices are channels x channels. Every term contains M, so nothing is lost where both are nearly equal, unlike in
||S'S||^2 + ||T'T||^2 - 2 ||ST'||^2. For a single channel, C = 1, both terms are products of two norms.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

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

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare feature maps (B, C, *spatial) of one spatial size; with `position`, C may differ.

        Raises ValueError where shapes do not fit.
        """
        self._check(student, teacher)
        dim = 1 if self.axis == "position" else 2
        s, t = (self._unit(each, dim) for each in (student, teacher.detach()))
        distance = by_position(s, t) if self.axis == "position" else by_channel(s, t)
        losses = distance / s.shape[2]
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"axis={self.axis!r}, reduction={self.reduction!r}, eps={self.eps}"

    def _unit(self, features: Tensor, dim: int) -> Tensor:
        flat = features.flatten(2).to(torch.promote_types(features.dtype, torch.float32))
        length = torch.linalg.vector_norm(flat, dim=dim, keepdim=True)
        return flat / torch.where(length > self.eps, length, 1)

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


def by_position(s: Tensor, t: Tensor) -> Tensor:
    """Return ||S'S - T'T||_F of each sample, for S (B, C, n) and T (B, C', n)."""
    channels = max(s.shape[1], t.shape[1])
    if s.shape[1] != t.shape[1]:  # padding by nothing would copy
        s, t = (F.pad(each, (0, 0, 0, channels - each.shape[1])) for each in (s, t))
    plus, minus = s + t, s - t
    if channels > s.shape[2]:
        product = plus.mT @ minus
        norms: Tensor = torch.linalg.vector_norm((product + product.mT).flatten(1), dim=1)
        return norms / 2
    cross = minus @ plus.mT
    squares = ((plus @ plus.mT) * (minus @ minus.mT)).sum((1, 2)) + (cross * cross.mT).sum((1, 2))
    # Rounding may leave less than 0 where the true value is 0; there the gradient is 0, as a norm's is.
    return (squares / 2).clamp_min(torch.finfo(s.dtype).tiny).sqrt()


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
