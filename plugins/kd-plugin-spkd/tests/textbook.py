"""Similarity-preserving distillation as its paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def similarities(features: Tensor, normalize: str = "l2") -> Tensor:
    """Return the rows of X X^T, each divided by its norm."""
    flat = features.reshape(len(features), -1)
    rows = []
    for sample in flat:
        row = torch.stack([(sample * other).sum() for other in flat])
        rows.append(row / (row.square().sum().sqrt() if normalize == "l2" else row.abs().sum()))
    return torch.stack(rows)


def spkd(student: Tensor, teacher: Tensor, normalize: str = "l2", reduction: str = "batchmean") -> Tensor:
    """Return the squared Frobenius norm of the difference, divided by the batch size squared for `batchmean`."""
    total = (similarities(student, normalize) - similarities(teacher.detach(), normalize)).square().sum()
    return total / len(student) ** 2 if reduction == "batchmean" else total


def at_once(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the same with products of matrices, as most people write it."""
    student, teacher = student.flatten(1), teacher.detach().flatten(1)
    student = torch.nn.functional.normalize(student @ student.T)
    teacher = torch.nn.functional.normalize(teacher @ teacher.T)
    return (student - teacher).square().sum() / len(student) ** 2
