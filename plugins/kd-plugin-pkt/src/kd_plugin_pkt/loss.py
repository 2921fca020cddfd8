"""Probabilistic knowledge transfer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.precision import without_autocast
from kdcore.shapes import check_rank, check_same_batch, check_several


class PKTLoss(nn.Module):
    """Divergence between the probabilities of choosing each sample of a batch as a neighbour.

        k_ij  = (cos(x_i, x_j) + 1) / 2
        p_ij  = k_ij / sum_j k_ij                                       q: the same of the student
        loss  = mean over i and j of p_ij log((p_ij + eps) / (q_ij + eps))

    Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, 2018,
    equations 3 to 7. As in the authors' code, to which the usual weight of 30000 belongs, the mean runs over
    all B^2 pairs, where the paper sums over different samples. A sample of zeros has a cosine of 0 with
    all.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        eps: added to norms and probabilities, above 0.
    """

    def __init__(self, eps: float = 1e-7) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps is {eps}; it must be above 0")
        self.eps = eps

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, ...) of the same samples; all but the batch is flattened and may differ.

        Raises ValueError where the batches differ or hold fewer than two samples.
        """
        check_rank(2, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        check_several("pkt compares samples with each other", student=student)
        theirs, own = self._neighbours(teacher.detach()), self._neighbours(student)
        # Rows add up to 1 on both sides, so the differences add nothing; without them each part is a difference of
        # small numbers, and a loss near 0 keeps its digits.
        difference = theirs - own
        return (theirs * torch.log1p(difference / (own + self.eps)) - difference).mean()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"eps={self.eps}"

    def _neighbours(self, features: Tensor) -> Tensor:
        flat = features.flatten(1).to(torch.promote_types(features.dtype, torch.float32))
        products = flat @ flat.T
        # Lengths stand on the diagonal, so the features are read once. A vector of zeros stays as it is; dividing
        # it by eps alone would make its gradient huge.
        squares = products.diagonal()
        dead = squares <= self.eps**2
        inverse = ((squares.masked_fill(dead, 1).sqrt() + self.eps).reciprocal()).masked_fill(dead, 1)
        # Of opposite samples rounding may leave less than 0, and the logarithm of less than nothing.
        kernel = (products * (inverse.unsqueeze(1) * inverse / 2) + 0.5).clamp_min(0)
        return kernel / kernel.sum(1, keepdim=True)
