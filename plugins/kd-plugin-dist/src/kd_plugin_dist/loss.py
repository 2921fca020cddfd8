"""Distillation by correlation of class probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_plugin_dist.checks import NOTHING
from kd_plugin_dist.correlation import correlation
from kdcore.shapes import check_rank, check_same_shape


class DISTLoss(nn.Module):
    """Correlation distance of the class probabilities, over classes and over samples.

        tau^2 (beta (1 - mean_b r_b) + gamma (1 - mean_c r_c))

    r_b correlates the two rows of sample b over the classes, r_c the two columns of class c over the
    samples, both of softmax(logits / tau). Huang et al.: Knowledge Distillation from A Stronger
    Teacher, 2022; tau^2 is that of the authors' code. Logits of more than
    two dimensions count every position as a sample.

    A row or column that does not vary, but for rounding, correlates 0 with anything: in a batch of one, the
    second part is gamma, with gradient 0. The teacher gets no gradient. float16 and bfloat16 are computed in float32.

    Arguments:
        beta: weight of the relation between classes, not negative.
        gamma: weight of the relation between samples, not negative.
        tau: temperature, above 0.
        eps: centred vectors whose lengths have a product up to eps^2 correlate 0, above 0.
    """

    def __init__(self, beta: float = 1, gamma: float = 1, tau: float = 1, eps: float = 1e-8) -> None:
        super().__init__()
        check_weights(beta=beta, gamma=gamma)
        check_positive(tau=tau, eps=eps)
        if not (beta or gamma):
            raise ValueError(NOTHING)
        self.beta = beta
        self.gamma = gamma
        self.tau = tau
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare logits (B, ..., C) of two classes or more; raises ValueError where shapes do not fit."""
        check_rank(2, student=student, teacher=teacher)
        check_same_shape(student=student, teacher=teacher)
        if student.shape[-1] < 2:
            raise ValueError(
                f"student has shape {tuple(student.shape)}; correlations need two classes or more, the last dimension"
            )
        dtype = computed_in(student, teacher)
        q, p = (self._probabilities(logits.to(dtype)) for logits in (student, teacher.detach()))
        classes, samples = (correlation(q, p, dim, self.eps).mean() for dim in (1, 0))
        beta, gamma = self.tau**2 * self.beta, self.tau**2 * self.gamma
        return (classes * -beta).add(samples, alpha=-gamma) + (beta + gamma)

    def _probabilities(self, logits: Tensor) -> Tensor:
        rows = logits.flatten(0, -2) if logits.dim() > 2 else logits
        return (rows if self.tau == 1 else rows / self.tau).softmax(1)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"beta={self.beta}, gamma={self.gamma}, tau={self.tau}, eps={self.eps}"


def check_weights(**weights: float) -> None:
    """Raise ValueError unless every weight is 0 or more."""
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")


def check_positive(**params: float) -> None:
    """Raise ValueError unless every param is above 0."""
    for name, value in params.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")


def computed_in(student: Tensor, teacher: Tensor) -> torch.dtype:
    """Return the wider dtype of both, float32 at least."""
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
