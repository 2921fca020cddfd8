"""SSKD as the paper writes it: cosines pair by pair, kept rows picked out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Images as they are, and their rotations."""
    original = torch.arange(len(rows)) % 4 == 0
    return rows[original], rows[~original]


def cosines(embedding: Tensor) -> Tensor:
    """The cosine of every rotated image with every image, from all pairs of vectors."""
    images, rotated = split(embedding)
    count = len(images)
    pairs = rotated.unsqueeze(2).expand(-1, -1, count), images.T.unsqueeze(0).expand(3 * count, -1, -1)
    return F.cosine_similarity(*pairs, dim=1)


def auxiliary(embedding: Tensor) -> Tensor:
    """Cross entropy of the image that a rotated one was made from."""
    scores = cosines(embedding)
    return F.cross_entropy(scores, torch.arange(len(scores)) // 3)


def keep(scores: Tensor, truth: Tensor, ratio: float) -> list[int]:
    """Rows that rank the truth first, and the best of the others."""
    ranks = [sum(float(other) > float(row[label]) for other in row) for row, label in zip(scores, truth, strict=True)]
    order = sorted(range(len(ranks)), key=lambda row: ranks[row])
    right = ranks.count(0)
    return order[: right + int((len(ranks) - right) * ratio)]


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL, averaged over rows."""
    log_q, log_p = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()


def sskd(
    student,
    teacher,
    student_embedding,
    teacher_embedding,
    target,
    temperatures=(4.0, 0.5, 4.0),
    ratios=(0.75, 1.0),
    weights=(1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """The weighted sum of all four."""
    (images, rotated), (teacher_images, teacher_rotated) = split(student), split(teacher)
    similarity, expected = cosines(student_embedding), cosines(teacher_embedding)
    origin = torch.arange(len(rotated)) // 3
    pairs = keep(expected, origin, ratios[0])
    rows = keep(teacher_rotated, target[origin], ratios[1])
    return (
        weights[0] * F.cross_entropy(images, target)
        + weights[1] * divergence(images, teacher_images, temperatures[0])
        + weights[2] * divergence(similarity[pairs], expected[pairs], temperatures[1])
        + weights[3] * divergence(rotated[rows], teacher_rotated[rows], temperatures[2])
    )
