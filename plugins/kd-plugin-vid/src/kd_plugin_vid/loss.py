"""Variational information distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.shapes import check_rank, check_same_shape


class VIDLoss(nn.Module):
    """Negative log-likelihood of the teacher's features under a Gaussian that the student predicts.

        loss = mean over all elements of ((mean - teacher)^2 / variance + log variance) / 2

    Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer, 2019,
    equation 5, without its constant and as a mean, where the paper sums.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.
    """

    def forward(self, mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, C, ...) of one shape; `variance`, above 0, may have a size of 1 in any dimension.

        Raises ValueError where shapes do not fit.
        """
        check_rank(2, mean=mean, teacher=teacher)
        check_same_shape(mean=mean, teacher=teacher)
        if variance.dim() != mean.dim() or any(
            own not in (1, size) for own, size in zip(variance.shape, mean.shape, strict=True)
        ):
            raise ValueError(
                f"variance has shape {tuple(variance.shape)} but mean has {tuple(mean.shape)}; each size of the "
                "variance must be that of the mean or 1"
            )
        dtype = torch.promote_types(mean.dtype, torch.float32)
        mean, variance, teacher = (each.to(dtype) for each in (mean, variance, teacher.detach()))
        squares = (mean - teacher).square()
        # Where one variance stands for many elements, it divides their mean, once.
        shared = [dim for dim, size in enumerate(variance.shape) if size == 1]
        if shared:
            squares = squares.mean(shared, keepdim=True)
        return (squares / variance + variance.log()).mean() / 2
