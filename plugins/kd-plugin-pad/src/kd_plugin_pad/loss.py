"""Squared distance with learned variances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdcore.reduction import check_reduction
from kdcore.shapes import check_rank, check_same_batch


class PADL2Loss(nn.Module):
    """Squared distance of embeddings, each number weighted by how uncertain the student is of it.

        L = mean_b mean_d [(teacher - student)_bd^2 / (exp(log_variance_bd) + eps) + log_variance_bd]

    Zhang, Lan, Dai, Ge, Li, Chen, Wang, Hu, Ding: Prime-Aware Adaptive Distillation, 2020, equation 5 up to a factor
    of 2. Samples of which the student is sure count more. The weight is computed as a
    sigmoid, so that variances of any size have finite gradients. Where embeddings agree, ever smaller variances lower
    the loss without bound.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        eps: added to each variance, above 0.
        reduction: `mean` or `sum` over the batch.
    """

    def __init__(self, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps is {eps}; it must be above 0")
        check_reduction(reduction, ("mean", "sum"))
        self.eps = eps
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor, log_variance: Tensor) -> Tensor:
        """Compare embeddings (B, ...) of D numbers each, flattened; `log_variance` has as many.

        Raises ValueError where shapes do not fit.
        """
        _check(student=student, teacher=teacher, log_variance=log_variance)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        s, t, v = (each.flatten(1).to(dtype) for each in (student, teacher.detach(), log_variance))
        # 1 / (exp(v) + eps), whose own gradient would be infinity over infinity for large v.
        weights = torch.sigmoid(math.log(self.eps) - v)
        losses = torch.addcmul(v, (t - s).square(), weights, value=1 / self.eps)
        return losses.mean() if self.reduction == "mean" else losses.mean(1).sum()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"eps={self.eps}, reduction={self.reduction!r}"


def _check(**inputs: Tensor) -> None:
    check_rank(2, None, **inputs)
    check_same_batch(**inputs)
    sizes = {name: math.prod(each.shape[1:]) for name, each in inputs.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            ", ".join(f"{name} has shape {tuple(each.shape)}" for name, each in inputs.items())
            + "; all need as many numbers a sample: the adapter linear brings the student to the teacher's size, and "
            "pad_variance with like: has it by itself"
        )
