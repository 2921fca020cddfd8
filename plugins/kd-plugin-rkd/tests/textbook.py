"""Relational knowledge distillation as its paper writes it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distances(features: Tensor) -> Tensor:
    """Return the distances of all pairs (B, B), divided by their mean over pairs of two samples."""
    differences = features.unsqueeze(0) - features.unsqueeze(1)
    norms = torch.linalg.vector_norm(differences, dim=-1)
    return norms / (norms.sum() / (len(features) * (len(features) - 1)))


def angles(features: Tensor) -> Tensor:
    """Return the cosines (B, B, B) of the angle at sample j between samples i and k."""
    differences = F.normalize(features.unsqueeze(0) - features.unsqueeze(1), dim=-1)
    return torch.bmm(differences, differences.transpose(1, 2))


def rkd(
    student: Tensor,
    teacher: Tensor,
    distance_weight: float = 1.0,
    angle_weight: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the weighted sum of both Huber losses."""
    student, teacher = student.flatten(1), teacher.detach().flatten(1)
    distance = F.smooth_l1_loss(distances(student), distances(teacher), reduction=reduction)
    angle = F.smooth_l1_loss(angles(student), angles(teacher), reduction=reduction)
    return distance_weight * distance + angle_weight * angle
