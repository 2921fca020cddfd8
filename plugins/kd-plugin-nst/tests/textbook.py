"""Neuron selectivity transfer as its paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(features: Tensor) -> Tensor:
    """Return the channels (B, C, n), each of length one."""
    flat = features.flatten(2)
    return flat / flat.square().sum(2, keepdim=True).sqrt()


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return the squared distances of all pairs of channels (B, C, C')."""
    return (left.unsqueeze(2) - right.unsqueeze(1)).square().sum(3)


def nst(student: Tensor, teacher: Tensor, kernel: str = "polynomial") -> Tensor:
    """Return the mean over samples of the discrepancy, from the kernels of all pairs."""
    own, theirs = unit(student), unit(teacher.detach())
    if kernel == "gaussian":
        width = squared_distances(own, theirs).mean((1, 2), keepdim=True)
        values = [
            torch.exp(-squared_distances(a, b) / (2 * width)) for a, b in ((theirs, theirs), (own, own), (theirs, own))
        ]
    else:
        power = 2 if kernel == "polynomial" else 1
        values = [torch.bmm(a, b.transpose(1, 2)) ** power for a, b in ((theirs, theirs), (own, own), (theirs, own))]
    means = [value.mean((1, 2)) for value in values]
    return (means[0] + means[1] - 2 * means[2]).mean()
