"""Distance of feature maps at several sizes.

Average pooling to all sizes is one product with a thin matrix, of as many rows as the map has positions and as many
columns as the pooled maps have together. It is cheaper than pooling size by size, whose backward pass writes a map
for each. Value and gradient are made together, so that one map, the difference, is all that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.gradient import with_gradient
from kdcore.precision import without_autocast
from kdcore.reduction import check_reduction
from kdcore.shapes import check_rank, check_same_shape


class HierarchicalContextLoss(nn.Module):
    """Squared distance of two feature maps, at full size and pooled to smaller ones.

        L = sum_l w_l MSE(pool_l(student), pool_l(teacher)) / sum_l w_l

    over full size with w = 1, then each of the output sizes that is below the map's, with half the
    weight of the one before.

    Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, 2021, section 3.4; the weights are those of the
    authors' code.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32. The gradient is made
    with the value, and first order.

    Arguments:
        output_sizes: heights and widths that maps are pooled to; a map narrower than high is pooled no further than
            its width.
        reduction: `mean` or `sum` over the elements of each size.
    """

    def __init__(self, output_sizes: Sequence[int] = (4, 2, 1), reduction: str = "mean") -> None:
        super().__init__()
        if any(size < 1 for size in output_sizes):
            raise ValueError(f"output_sizes is {list(output_sizes)}; sizes must be 1 or more")
        check_reduction(reduction, ("mean", "sum"))
        self.output_sizes = tuple(output_sizes)
        self.reduction = reduction

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare feature maps (B, C, H, W), or features (B, C), which nothing can pool.

        Raises ValueError where shapes do not fit.
        """
        check_rank(2, 4, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        if student.dim() == 3:
            raise ValueError(f"student has shape {tuple(student.shape)}; (B, C, H, W) or (B, C) is needed")
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        own = student.to(dtype)
        with torch.no_grad():
            difference = own - teacher
            value, gradient = self._compared(difference.reshape(math.prod(student.shape[:2]), -1), student.shape[2:])
        return with_gradient(own, value, gradient.view_as(own))

    def _compared(self, difference: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the loss of differences (B C, H W), which it overwrites with the gradient."""
        sizes = self._sizes(size)
        weights = [0.5 ** (place + 1) for place in range(len(sizes))]
        planes = len(difference)
        counts = [planes * height * width if self.reduction == "mean" else 1 for height, width in sizes]
        scale = 1 / ((1 + sum(weights)) * (difference.numel() if self.reduction == "mean" else 1))
        value = torch.linalg.vector_norm(difference).square() * scale
        if not sizes:
            return value, difference.mul_(2 * scale)
        parts = [
            pooling(size, pooled, difference).mul_(math.sqrt(weight / count / (1 + sum(weights))))
            for pooled, weight, count in zip(sizes, weights, counts, strict=True)
        ]
        matrix = torch.cat(parts)
        means = difference @ matrix.T
        value += torch.linalg.vector_norm(means).square()
        return value, difference.addmm_(means, matrix, beta=2 * scale, alpha=2)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"output_sizes={list(self.output_sizes)}, reduction={self.reduction!r}"

    def _sizes(self, size: Sequence[int]) -> list[tuple[int, int]]:
        if not size:
            return []
        height, width = size
        below = [size for size in self.output_sizes if size < max(height, width)]
        return [(min(size, height), min(size, width)) for size in below]


def pooling(size: Sequence[int], pooled: Sequence[int], like: Tensor) -> Tensor:
    """Return the matrix (h w, H W) of adaptive average pooling from H x W to h x w, for flattened maps."""
    rows, columns = (
        F.adaptive_avg_pool1d(torch.eye(full, dtype=like.dtype, device=like.device), part).T
        for full, part in zip(size, pooled, strict=True)
    )
    return torch.kron(rows, columns)
