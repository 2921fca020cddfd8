"""Distillation from a network's deeper exit to a shallow one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_self_kd.checks import NO_TEMPERATURE
from kdcore.reduction import Reduced, check_reduction, reduce_losses
from kdcore.shapes import check_rank, check_same_shape


class SelfKDLoss(nn.Module):
    """Divergence of a network's shallow exit from its deeper one.

        cross_entropy   -sum_c p_c log q_c                p = softmax(teacher / T), q = softmax(student / T)
        kl              sum_c p_c (log p_c - log q_c)
        l2              |student - teacher|^2             over all features of a sample

    Zhang et al.: Be Your Own Teacher, 2019, section 3.2: `kl` is its second source of loss, `l2` its
    third. As in Neural Compressor, T multiplies nothing; a factor T^2 is the term's weight.

    Both inputs come from the student. The deeper one gets no gradient: it would be drawn towards the
    exit it teaches. float16 and bfloat16 are computed in float32.

    Arguments:
        divergence: `cross_entropy`, `kl` or `l2`.
        temperature: T > 0; 1 for `l2`.
        reduction: over the distributions, for `l2` over the samples, see
            `kdcore.reduction.reduce_losses`; `tokens` makes the loss return (sum, count).
    """

    def __init__(self, divergence: str = "cross_entropy", temperature: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence is {divergence!r}; it must be one of {', '.join(DIVERGENCES)}")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        if divergence == "l2" and temperature != 1:
            raise ValueError(NO_TEMPERATURE)
        check_reduction(reduction)
        self.divergence = divergence
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Reduced:
        """Return the reduced divergence.

        Arguments:
            student: the shallow exit: logits (B, ..., C), for `l2` features (B, ...).
            teacher: the deeper exit, of the same shape.

        Raises ValueError where shapes do not fit.
        """
        check_rank(1, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        s, t = (self._softened(each.to(dtype)) for each in (student, teacher.detach()))
        if self.divergence == "l2":
            s, t = s.reshape(len(s), -1), t.reshape(len(t), -1)
        return reduce_losses(DIVERGENCES[self.divergence](s, t), self.reduction, num_classes=s.shape[-1])

    def count(self, **inputs: Tensor) -> Tensor | None:
        """Return None: how many distributions there are shows only once the model has run."""
        return None

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"divergence={self.divergence!r}, temperature={self.temperature}, reduction={self.reduction!r}"

    def _softened(self, logits: Tensor) -> Tensor:
        return logits if self.temperature == 1 else logits / self.temperature


def _cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.log_softmax(-1) * teacher.softmax(-1)).sum(-1).neg()


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    log_p = teacher.log_softmax(-1)
    p = log_p.exp()
    return log_p.sub_(student.log_softmax(-1)).mul_(p).sum(-1)


def _squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    # One kernel each way, that keeps no difference.
    return F.mse_loss(student, teacher, reduction="none").sum(-1)


DIVERGENCES = {"cross_entropy": _cross_entropy, "kl": _kl, "l2": _squared_distance}
