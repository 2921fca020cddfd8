"""Distillation of features by a logarithm of powers, and of logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore.reduction import REDUCTIONS, check_reduction, reduce_losses
from kdcore.shapes import check_rank, check_same_batch, check_same_shape

# The features' part is one number for the whole batch; there is no count of positions that would divide it.
ALLOWED = tuple(each for each in REDUCTIONS if each != "tokens")


class SRDLoss(nn.Module):
    """Logarithm of the summed powers of feature differences, and divergence of the logits.

        feature_weight log sum_bd |f_bd - g_bd|^exponent + sum_c p_c (log p_c - log q_c)

    f and g are the student's projected and the teacher's features, both standardised over the batch
    (see `srd_projector`), p and q the class distributions of teacher and student. Miles and
    Mikolajczyk: Understanding the Role of the Projector in Knowledge Distillation, 2024. A larger batch
    adds a constant to the features' part and leaves its gradient as it is.

    Where f equals g the logarithm does not exist; its argument is bounded by the smallest normal number,
    so the loss is finite and its gradient 0. The teacher gets no gradient. float16 and bfloat16 are
    computed in float32.

    Arguments:
        exponent: 1 or more; larger ones tend to the largest difference.
        temperature: T > 0, divides the logits; no factor T^2, as in the authors' code.
        feature_weight: weight of the first part, not negative.
        reduction: of the second part over the distributions, see `kdcore.reduction.reduce_losses`.
    """

    def __init__(
        self, exponent: float = 4.0, temperature: float = 1.0, feature_weight: float = 2.0, reduction: str = "mean"
    ) -> None:
        super().__init__()
        if not exponent >= 1:
            raise ValueError(f"exponent is {exponent}; it must be 1 or more")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        if not feature_weight >= 0:
            raise ValueError(f"feature_weight is {feature_weight}; it must be 0 or more")
        check_reduction(reduction, ALLOWED)
        self.exponent = exponent
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor, student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        """Return the sum of both parts.

        Arguments:
            student: logits (B, ..., C).
            teacher: logits of the same shape.
            student_feature: features (B, ...).
            teacher_feature: features of the same shape.

        Raises ValueError where shapes do not fit.
        """
        check_rank(2, student=student, teacher=teacher, student_feature=student_feature)
        check_same_shape(student=student, teacher=teacher)
        check_same_shape(student_feature=student_feature, teacher_feature=teacher_feature)
        check_same_batch(student=student, student_feature=student_feature)
        loss = self._divergence(*_computed(student, teacher))
        return loss + self.feature_weight * self._distance(*_computed(student_feature, teacher_feature))

    def extra_repr(self) -> str:
        """Say what was configured."""
        return (
            f"exponent={self.exponent}, temperature={self.temperature}, feature_weight={self.feature_weight}, "
            f"reduction={self.reduction!r}"
        )

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        difference = student - teacher
        if self.exponent == 4:  # products cost a fraction of a power
            squares = difference.square().flatten()
            total = squares.dot(squares)
        elif self.exponent == 2:
            total = difference.square().sum()
        else:
            total = difference.abs().pow(self.exponent).sum()
        return total.clamp_min(torch.finfo(total.dtype).tiny).log()

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = (self._softened(logits).log_softmax(-1) for logits in (student, teacher))
        p = log_p.exp()
        losses = log_p.sub_(log_q).mul_(p).sum(-1)
        reduced = reduce_losses(losses, self.reduction, num_classes=student.shape[-1])
        assert isinstance(reduced, Tensor)  # `tokens`, which alone gives a pair, is not allowed
        return reduced

    def _softened(self, logits: Tensor) -> Tensor:
        return logits if self.temperature == 1 else logits / self.temperature


def _computed(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)
