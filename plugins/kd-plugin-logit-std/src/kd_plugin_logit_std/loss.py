"""Distillation of standardised logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.reduction import Reduced, check_reduction, reduce_losses
from kdcore.rounding import length_left
from kdcore.shapes import check_rank, check_same_shape

EQUAL = 1e-7


class LogitStdKDLoss(nn.Module):
    """Hinton's divergence of logits that each side's own deviation has divided.

        T^2 sum_c p_c (log p_c - log q_c)
        q = softmax(z(student) / T), p = softmax(z(teacher) / T), z(x) = (x - mean x) / (eps + std x)

    with mean and (unbiased) deviation over the classes of one distribution. Sun et al.: Logit
    Standardization in Knowledge Distillation, 2024, algorithm 1. The student need not match the range
    and deviation of its teacher's logits, only their ranking and proportions.

    The mean is taken out for accuracy only: the softmax ignores it, so no gradient goes through it. A
    distribution whose logits are all equal, up to rounding, stays uniform, and its gradient is that of logits of
    deviation 1, where the formula's would be 1 / eps times that. The teacher gets no gradient. float16 and
    bfloat16 are computed in float32.

    Arguments:
        temperature: T > 0, the paper's base temperature.
        eps: added to the deviation, above 0.
        reduction: over the distributions, see `kdcore.reduction.reduce_losses`; `tokens` makes the
            loss return (sum, count).
        scale_by_temperature: multiply by T^2.
        dim: the dimension of the classes.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        eps: float = 1e-7,
        reduction: str = "mean",
        scale_by_temperature: bool = True,
        dim: int = -1,
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("eps", eps)):
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        check_reduction(reduction)
        self.temperature = temperature
        self.eps = eps
        self.reduction = reduction
        self.scale_by_temperature = scale_by_temperature
        self.dim = dim

    def forward(self, student: Tensor, teacher: Tensor) -> Reduced:
        """Return the reduced divergence of logits (B, ..., C), the classes along `dim`, two or more.

        Raises ValueError where shapes do not fit.
        """
        check_rank(1, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        if not -student.dim() <= self.dim < student.dim():
            raise ValueError(f"student has shape {tuple(student.shape)}: there is no dimension dim={self.dim}")
        classes = student.shape[self.dim]
        if classes < 2:
            raise ValueError(
                f"student has shape {tuple(student.shape)}; a deviation needs two classes or more along dim={self.dim}"
            )
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        log_q, log_p = (self._log_probabilities(logits.to(dtype)) for logits in (student, teacher.detach()))
        p = log_p.exp()
        losses = log_p.sub_(log_q).mul_(p).sum(self.dim)
        scale = self.temperature**2 if self.scale_by_temperature else 1.0
        return reduce_losses(losses, self.reduction, num_classes=classes, scale=scale)

    def count(self, **inputs: Tensor) -> Tensor | None:
        """Return None: how many distributions there are shows only once the models have run."""
        return None

    def extra_repr(self) -> str:
        """Say what was configured."""
        return (
            f"temperature={self.temperature}, eps={self.eps}, reduction={self.reduction!r}, "
            f"scale_by_temperature={self.scale_by_temperature}, dim={self.dim}"
        )

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        mean, classes = logits.detach().mean(self.dim, keepdim=True), logits.shape[self.dim]
        centred = logits - mean
        # As a norm the deviation takes half the time, and its gradient is 0 at 0.
        length: Tensor = torch.linalg.vector_norm(centred, dim=self.dim, keepdim=True)
        deviation = length / (classes - 1) ** 0.5
        # Logits that are all equal, as of a head that begins with zeros, would get a gradient of 1 / eps.
        equal = (length <= mean.abs() * length_left(classes, mean.dtype)) | (deviation <= min(self.eps, EQUAL))
        divisor = torch.where(equal, 1, self.eps + deviation)
        return (centred / (self.temperature * divisor)).log_softmax(self.dim)
