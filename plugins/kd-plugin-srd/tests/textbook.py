"""The loss and the projector from their formulas."""

from __future__ import annotations

from torch import Tensor


def srd(
    student: Tensor,
    teacher: Tensor,
    student_feature: Tensor,
    teacher_feature: Tensor,
    exponent: float = 4.0,
    temperature: float = 1.0,
    feature_weight: float = 2.0,
) -> Tensor:
    """Logits (N, C) and features (B, ...)."""
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    distance = ((student_feature - teacher_feature).abs() ** exponent).sum().log()
    return feature_weight * distance + divergence


def standardised(features: Tensor, eps: float = 1e-5) -> Tensor:
    """Features (B, D) of mean 0 and variance 1."""
    centred = features - features.mean(0)
    return centred / ((centred**2).mean(0) + eps).sqrt()
