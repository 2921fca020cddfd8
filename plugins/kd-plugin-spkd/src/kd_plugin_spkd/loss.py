"""Similarity-preserving knowledge distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.precision import without_autocast
from kdcore.shapes import check_rank, check_same_batch, check_several

NORMS = {"l2": 2, "l1": 1}
REDUCTIONS = ("batchmean", "sum")
EPS = 1e-12


class SPKDLoss(nn.Module):
    """Squared difference of the normalised similarities among the samples of a batch.

        G     = X X^T, each row divided by its norm        X: features (B, D)
        loss  = ||G_student - G_teacher||_F^2 / B^2

    Tung, Mori: Similarity-Preserving Knowledge Distillation, 2019, equations 2 to 4, with `normalize`
    as `l2`. A sample of zeros has similarities of zero and gets no gradient from them.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        normalize: `l2`, or `l1` for the rows' absolute sums, as torchdistill.
        reduction: `batchmean` divides by B^2, `sum` does not.
    """

    def __init__(self, normalize: str = "l2", reduction: str = "batchmean") -> None:
        super().__init__()
        if normalize not in NORMS:
            raise ValueError(f"normalize is {normalize!r}; it must be one of {', '.join(NORMS)}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
        self.normalize = normalize
        self.reduction = reduction

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, ...) of the same samples; all but the batch is flattened and may differ.

        Raises ValueError where the batches differ or hold fewer than two samples.
        """
        check_rank(2, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        check_several("spkd compares samples with each other", student=student)
        difference = self._similarities(student) - self._similarities(teacher.detach())
        squares = difference.square()
        return squares.mean() if self.reduction == "batchmean" else squares.sum()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"normalize={self.normalize!r}, reduction={self.reduction!r}"

    def _similarities(self, features: Tensor) -> Tensor:
        flat = features.flatten(1).to(torch.promote_types(features.dtype, torch.float32))
        gram = flat @ flat.T
        norms = torch.linalg.vector_norm(gram, NORMS[self.normalize], dim=1, keepdim=True)
        # A row of zeros stays as it is; dividing it by a tiny number would make its gradient huge.
        return gram / torch.where(norms > EPS, norms, 1)
