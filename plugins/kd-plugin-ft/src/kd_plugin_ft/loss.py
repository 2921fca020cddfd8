"""Factor transfer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.shapes import check_rank, check_same_shape

REDUCTIONS = ("mean", "batchmean", "sum")


class FTLoss(nn.Module):
    """Distance of the student's factors from the teacher's, both of length one.

        d_b        = f_student / ||f_student||_2 - f_teacher / ||f_teacher||_2      of sample b, D numbers
        batchmean  mean_b ||d_b||_p
        mean       mean_b ||d_b||_p / D^(1/p)       for p = 1 the mean over all elements
        sum        sum_b ||d_b||_p

    Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer, 2018,
    equation 2, which is `batchmean`; `mean` is the authors' code, to which their weights belong. Factors
    of zeros stay zero.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        p: the norm of the difference, 1 or more.
        reduction: `mean`, `batchmean` or `sum`.
        eps: factors no longer than this stay as they are, 0 or more.
    """

    def __init__(self, p: float = 1, reduction: str = "mean", eps: float = 1e-12) -> None:
        super().__init__()
        if not p >= 1:
            raise ValueError(f"p is {p}; it must be 1 or more")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
        if not eps >= 0:
            raise ValueError(f"eps is {eps}; it must be 0 or more")
        self.p = p
        self.reduction = reduction
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare factors (B, ...) of one shape. Raises ValueError where shapes differ."""
        check_rank(2, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        own, theirs = self._unit(student), self._unit(teacher.detach())
        if self.p == 1 and self.reduction == "mean":
            return F.l1_loss(own, theirs.to(own.dtype))
        distances: Tensor = torch.linalg.vector_norm(own - theirs, self.p, dim=1)
        if self.reduction == "sum":
            return distances.sum()
        return distances.mean() if self.reduction == "batchmean" else distances.mean() / own.shape[1] ** (1 / self.p)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"p={self.p}, reduction={self.reduction!r}, eps={self.eps}"

    def _unit(self, factors: Tensor) -> Tensor:
        flat = factors.flatten(1).to(torch.promote_types(factors.dtype, torch.float32))
        norms = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        # A product needs one tensor fewer in the backward pass than a quotient.
        return flat * torch.where(norms > self.eps, norms, 1).reciprocal()
