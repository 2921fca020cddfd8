"""Distillation of the directions of logits, relative to each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_plugin_skd.distance import MeanDistance
from kdcore.precision import without_autocast
from kdcore.shapes import check_rank, check_same_batch, check_several

EPS = 1e-12


class SKDDirectionLoss(nn.Module):
    """Mahalanobis distance between the Gram matrices of the normalised logits.

        mean_i sqrt(d_i^T S^-1 d_i)          d_i the rows of D = G_student - G_teacher
        G = X X^T, the rows of X of length 1          S = cov(D) + tikhonov I

    where cov is the (unbiased) covariance of the columns of D over its rows. Streamlined Knowledge
    Distillation, CVPR 2026, its direction-wise part; the instance-wise part is `kd` without the factor
    T^2. The gradient flows through S too, as in the authors' code.

    D is computed from the difference of both sides, so it is accurate where they nearly agree; where they
    agree the loss is 0 and so is its gradient. A sample of zeros has no direction: its cosine with all is 0,
    and its gradient that of a sample of length 1. There are no second derivatives. The teacher gets no
    gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        tikhonov: above 0; the larger, the closer to the plain distance over sqrt(tikhonov).
    """

    def __init__(self, tikhonov: float = 0.1) -> None:
        super().__init__()
        if not tikhonov > 0:
            raise ValueError(f"tikhonov is {tikhonov}; it must be above 0")
        self.tikhonov = tikhonov

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare logits (B, ...) of the same samples, at least two; the numbers of classes may differ.

        Raises ValueError where shapes do not fit.
        """
        check_rank(2, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        check_several("skd_direction compares samples with each other", student=student)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        directions = _directions(student.to(dtype)), _directions(teacher.detach().to(dtype))
        loss: Tensor = MeanDistance.apply(*directions, self.tikhonov)  # type: ignore[no-untyped-call]
        return loss

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"tikhonov={self.tikhonov}"


def _directions(logits: Tensor) -> Tensor:
    flat = logits.flatten(1)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    # A row of zeros stays as it is; dividing it by a tiny number would make its gradient huge.
    return flat / torch.where(length > EPS, length, 1)
