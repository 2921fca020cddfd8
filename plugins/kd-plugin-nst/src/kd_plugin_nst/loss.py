"""Neuron selectivity transfer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_plugin_nst.discrepancy import DISCREPANCIES
from kdcore.precision import without_autocast
from kdcore.shapes import check_rank, check_same_batch

EPS = 1e-12


class NSTLoss(nn.Module):
    """Maximum mean discrepancy between the channels of two feature maps.

        f          a channel's values at all positions, divided by their L2 norm; C of them in each map
        loss       mean over samples of  mean k(t, t') + mean k(s, s') - 2 mean k(t, s)
        linear     k(x, y) = x . y
        polynomial k(x, y) = (x . y)^2
        gaussian   k(x, y) = exp(-||x - y||^2 / (2 v)),  v: the mean of ||t - s||^2 over the sample's pairs

    Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017, equations
    6 to 8, polynomial with d = 2 and c = 0; their lambda / 2 is the term's weight. A channel of zeros
    stays zero.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        kernel: `polynomial`, `linear` or `gaussian`.
    """

    def __init__(self, kernel: str = "polynomial") -> None:
        super().__init__()
        if kernel not in DISCREPANCIES:
            raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(DISCREPANCIES)}")
        self.kernel = kernel

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare feature maps (B, C, *spatial) of 1 to 3 spatial dimensions; only C may differ.

        Raises ValueError where batches or spatial sizes differ.
        """
        check_rank(3, 5, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"student has shape {tuple(student.shape)} but teacher has {tuple(teacher.shape)}; nst needs maps of "
                "one spatial size: choose layers of one resolution, or put a resize adapter before one of them"
            )
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        own, theirs = (_unit(features.to(dtype).flatten(2)) for features in (student, teacher.detach()))
        return DISCREPANCIES[self.kernel](own, theirs) / len(student)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"kernel={self.kernel!r}"


def _unit(channels: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(channels, dim=2, keepdim=True)
    # A channel of zeros stays as it is; dividing it by a tiny number would make its gradient huge.
    return channels / torch.where(norms > EPS, norms, 1)
