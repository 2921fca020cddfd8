"""DIST and DIST+ as the papers write them: Pearson's correlation as covariance over deviations, vector by vector."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation of each row of `x` with that of `y`."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / ((x * x).sum(1).sqrt() * (y * y).sum(1).sqrt())


def dist(student: Tensor, teacher: Tensor, beta: float = 1, gamma: float = 1, tau: float = 1) -> Tensor:
    """Logits (B, C)."""
    q, p = (student / tau).softmax(1), (teacher / tau).softmax(1)
    inter, intra = 1 - pearson(q, p).mean(), 1 - pearson(q.T, p.T).mean()
    return tau**2 * (beta * inter + gamma * intra)


def dist_plus(
    student: Tensor,
    teacher: Tensor,
    student_feature: Tensor,
    teacher_feature: Tensor,
    iota: float = 1,
    kappa: float = 1,
    **logits: Any,
) -> Tensor:
    """Logits (B, C) and feature maps (B, D, H, W)."""
    places = [each.movedim(1, -1).flatten(0, -2) for each in (student_feature, teacher_feature)]
    sums = [each.sum(1).flatten(1).T for each in (student_feature, teacher_feature)]
    channels, samples = 1 - pearson(*places).mean(), 1 - pearson(*sums).mean()
    return dist(student, teacher, **logits) + iota * channels + kappa * samples
