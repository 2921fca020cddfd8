"""Distillation of where each channel is active."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.shapes import check_rank, check_same_shape


class CWDLoss(nn.Module):
    """Divergence between the spatial distributions of every channel.

        mean over samples b and channels c of T^2 sum_i p_bci (log p_bci - log q_bci)

    with p and q the softmax over all positions i of teacher and student, divided by T. Shu et al.:
    Channel-wise Knowledge Distillation for Dense Prediction, 2021. The mean over samples is that of
    the authors' code. A channel of equal activations is a uniform distribution.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        temperature: T > 0; higher looks at more of the positions.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare maps (B, C, *spatial) of 1 to 3 spatial dimensions; raises ValueError where shapes do not fit."""
        check_rank(3, 5, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        log_q, log_p = self._log_probabilities(student), self._log_probabilities(teacher.detach())
        p = log_p.exp()
        divergences = log_p.sub_(log_q).mul_(p)
        channels = student.shape[0] * student.shape[1]
        return divergences.sum() * (self.temperature**2 / max(channels, 1))

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"temperature={self.temperature}"

    def _log_probabilities(self, maps: Tensor) -> Tensor:
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        return (maps.flatten(2) / self.temperature).log_softmax(-1)
