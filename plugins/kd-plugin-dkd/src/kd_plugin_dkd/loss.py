"""Distillation of the target class and of the other classes, apart."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_dkd.checks import NOTHING
from kdcore.contracts import Facts
from kdcore.labels import check_classes, check_labels
from kdcore.shapes import check_rank, check_same_shape


class DKDLoss(nn.Module):
    """Hinton's divergence in its two parts, which it ties together, with a weight for each.

        alpha T^2 KL([p_y, 1 - p_y] || [q_y, 1 - q_y])        the target class y against all others
        + beta T^2 KL(p^ || q^)                               p^, q^: the other classes among themselves
        p = softmax(teacher / T), q = softmax(student / T), p^_c = p_c / (1 - p_y)

    averaged over the distributions. Zhao et al.: Decoupled Knowledge Distillation, 2022, equation 7;
    T^2 is that of the authors' code. With beta = 1 - p_y the two parts would add up to Hinton's
    divergence: it silences the second one where the teacher is sure.

    The target's logit is left out of the second part instead of being lowered by a large number, and
    1 - p_y is never computed as a difference, so a sure teacher costs no accuracy. The teacher gets
    no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        alpha: weight of the first part, not negative.
        beta: weight of the second part, not negative.
        temperature: T > 0; higher is softer.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}; it must be 0 or more")
        if not (alpha or beta):
            raise ValueError(NOTHING)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def setup(self, facts: Facts) -> None:
        """Refuse fewer classes than the data set has, which would fail at the first label beyond them."""
        check_classes(facts)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum of both parts.

        Arguments:
            student: logits (B, ..., C), of two classes or more.
            teacher: logits of the same shape.
            target: class indices (B, ...), each from 0 to C - 1.

        Raises ValueError where shapes or labels do not fit.
        """
        check_rank(2, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        if student.shape[-1] < 2:
            raise ValueError(
                f"student has shape {tuple(student.shape)}; dkd needs two classes or more, in the last dimension"
            )
        check_labels(target, student)
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        label = target.long().unsqueeze(-1)
        student_odds, student_others = _decoupled(student.to(dtype), label, self.temperature)
        with torch.no_grad():
            teacher_odds, teacher_others = _decoupled(teacher.to(dtype), label, self.temperature)
        losses = self.alpha * _binary_divergence(student_odds, teacher_odds)
        losses = losses + self.beta * _divergence(student_others, teacher_others)
        return self.temperature**2 * losses.mean()

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}"


def _decoupled(logits: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the log odds of the labelled class, and the log probabilities of the others among themselves.

    Among the latter the labelled class's own is -inf.
    """
    others = (logits / temperature).scatter_(-1, label, -math.inf)
    weight = others.logsumexp(-1, keepdim=True)
    return (logits.gather(-1, label) / temperature - weight).squeeze(-1), others - weight


def _binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence of two coins, given their log odds."""
    heads = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    tails = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return heads + tails


def _divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    p = log_p.exp()
    # The labelled class counts 0, although its logarithm does not exist. q - p adds up to 0, but for what rounding
    # has made of the logarithms, which it takes out again.
    return (log_p - log_q).masked_fill_(p == 0, 0).mul_(p).add_(log_q.exp()).sub_(p).sum(-1)
