"""Correlation congruence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdcore.precision import without_autocast
from kdcore.shapes import check_rank, check_same_batch, check_several

KERNELS = ("gaussian", "bilinear")
REDUCTIONS = ("batchmean", "sum")
EPS = 1e-12
MAX_POWER = 100


class CCKDLoss(nn.Module):
    """Squared difference of the kernel correlations among the samples of a batch.

        bilinear    k(x, y) = x . y
        gaussian    k(x, y) = sum_{p=0..max_p} exp(-2 gamma) (2 gamma)^p / p! (x . y)^p
        loss        ||K_student - K_teacher||_F^2 / B^2      K_ij = k(x_i, x_j), x / ||x|| first

    Peng et al.: Correlation Congruence for Knowledge Distillation, 2019, equations 4 to 9. The series
    is that of exp(-gamma ||x - y||^2) for unit vectors. Its term p = 0 is the same on both sides and is left
    out. An embedding of zeros stays zero.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        kernel: `gaussian` or `bilinear`.
        gamma: the Gaussian's, above 0.
        max_p: the highest power of the series, from 1 to 100.
        normalize: divide each embedding by its L2 norm.
        reduction: `batchmean` divides by B^2, `sum` does not.
    """

    def __init__(
        self,
        kernel: str = "gaussian",
        gamma: float = 0.4,
        max_p: int = 2,
        normalize: bool = True,
        reduction: str = "batchmean",
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(KERNELS)}")
        if not gamma > 0:
            raise ValueError(f"gamma is {gamma}; it must be above 0")
        if not 1 <= max_p <= MAX_POWER:
            raise ValueError(f"max_p is {max_p}; it must be from 1 to {MAX_POWER}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
        self.kernel = kernel
        self.gamma = gamma
        self.max_p = max_p
        self.normalize = normalize
        self.reduction = reduction
        # By logarithms: powers and factorials overflow long before their quotients.
        self._coefficients = [
            math.exp(power * math.log(2 * gamma) - 2 * gamma - math.lgamma(power + 1)) for power in range(1, max_p + 1)
        ]

    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare embeddings (B, ...) of the same samples; all but the batch is flattened and may differ.

        Raises ValueError where the batches differ or hold fewer than two samples.
        """
        check_rank(2, student=student, teacher=teacher)
        check_same_batch(student=student, teacher=teacher)
        check_several("cckd correlates samples with each other", student=student)
        squares = (self._correlations(student) - self._correlations(teacher.detach())).square()
        return squares.mean() if self.reduction == "batchmean" else squares.sum()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return (
            f"kernel={self.kernel!r}, gamma={self.gamma}, max_p={self.max_p}, normalize={self.normalize}, "
            f"reduction={self.reduction!r}"
        )

    def _correlations(self, features: Tensor) -> Tensor:
        flat = features.flatten(1).to(torch.promote_types(features.dtype, torch.float32))
        gram = flat @ flat.T
        if self.normalize:
            # Lengths stand on the diagonal, so the features are read once. A vector of zeros stays as it is; dividing
            # it by a tiny number would make its gradient huge.
            squares = gram.diagonal()
            inverse = squares.masked_fill(squares <= EPS**2, 1).rsqrt()
            gram = gram * (inverse.unsqueeze(1) * inverse)
        if self.kernel == "bilinear":
            return gram
        series = gram * self._coefficients[-1]
        for coefficient in reversed(self._coefficients[:-1]):
            series = (series + coefficient) * gram
        return series
