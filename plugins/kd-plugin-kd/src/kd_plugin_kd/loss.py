"""Distillation of softened logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kd_plugin_kd.divergence import DIVERGENCES, divergence, total_divergence
from kdcore.reduction import Reduced, check_reduction, count_positions, reduce_losses, unmasked_divisor
from kdcore.shapes import check_rank, check_same_shape


class KDLoss(nn.Module):
    """Divergence between the softened class distributions of teacher and student.

        kl              T^2 sum_c p_c (log p_c - log q_c)       p = softmax(teacher / T)
        cross_entropy   -T^2 sum_c p_c log q_c                  q = softmax(student / T)
        mse             T^2 sum_c ((student_c - teacher_c) / T)^2

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2. There the
    objective is the cross entropy, which differs from `kl` by the teacher's entropy alone: its
    gradient is the same, and `kl` is 0 where student and teacher agree. `mse` is the limit of high
    temperatures, section 2.1, up to a factor and the logits' means.

    The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        temperature: T > 0; higher is softer.
        divergence: `kl`, `cross_entropy` or `mse`.
        reduction: over the distributions, see `kdcore.reduction.reduce_losses`; `tokens` makes the
            loss return (sum, count).
        scale_by_temperature: multiply by T^2, which keeps the gradient's scale.
        dim: the dimension of the classes.
    """

    # The divergences convert block by block; a copy of all logits in float32 would only cost memory.
    accepts_low_precision = True

    def __init__(
        self,
        temperature: float = 4.0,
        divergence: str = "kl",
        reduction: str = "mean",
        scale_by_temperature: bool = True,
        dim: int = -1,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence is {divergence!r}; it must be one of {', '.join(DIVERGENCES)}")
        check_reduction(reduction)
        self.temperature = temperature
        self.divergence = divergence
        self.reduction = reduction
        self.scale_by_temperature = scale_by_temperature
        self.dim = dim

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Reduced:
        """Return the reduced divergence of `student` from `teacher`.

        Arguments:
            student: logits (B, ..., C), the classes along `dim`.
            teacher: logits of the same shape.
            mask: bool or number, of the shape of the logits without the class dimension; what a
                position counts.

        Raises ValueError where shapes do not fit.
        """
        check_rank(1, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        if not -student.dim() <= self.dim < student.dim():
            raise ValueError(f"student has shape {tuple(student.shape)}: there is no dimension dim={self.dim}")
        classes = student.shape[self.dim]
        softened: dict[str, Any] = {"kind": self.divergence, "temperature": self._softening, "dim": self.dim}
        if mask is None and self.reduction != "tokens":
            shape = [*student.shape]
            shape.pop(self.dim)
            scale = self._factor / unmasked_divisor(self.reduction, shape, classes)
            return total_divergence(student, teacher, **softened, scale=scale)
        losses = divergence(student, teacher, **softened)
        return reduce_losses(losses, self.reduction, num_classes=classes, mask=mask, scale=self._factor)

    def count(self, mask: Tensor | None = None, **others: Tensor) -> Tensor | None:
        """Return the count that `forward` will return, or None where it cannot be known yet.

        A loss that returns (sum, count) may define this. It is called before any forward, with
        those of its inputs that come from the batch; the others are not passed.
        """
        return None if mask is None or self.reduction != "tokens" else count_positions(mask)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return (
            f"temperature={self.temperature}, divergence={self.divergence!r}, reduction={self.reduction!r}, "
            f"scale_by_temperature={self.scale_by_temperature}, dim={self.dim}"
        )

    @property
    def _softening(self) -> float:
        # Squared differences only rescale with T, so there the factor alone carries it.
        return 1.0 if self.divergence == "mse" else self.temperature

    @property
    def _factor(self) -> float:
        if self.divergence == "mse":
            return 1.0 if self.scale_by_temperature else self.temperature**-2
        return self.temperature**2 if self.scale_by_temperature else 1.0
