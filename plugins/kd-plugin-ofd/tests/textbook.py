"""The paper's distance and margins, number by number."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def margin(shift: float, scale: float) -> float:
    """E[x | x < 0] of a normal distribution, by its density and distribution function."""
    z = shift / scale
    density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return shift - scale * density / (math.erfc(z / math.sqrt(2)) / 2)


def ofd(student: Tensor, teacher: Tensor, norm: torch.nn.Module) -> Tensor:
    """The partial distance, summed over features and averaged over the batch."""
    pairs = zip(norm.bias.tolist(), norm.weight.tolist(), strict=True)
    margins = [margin(shift, abs(scale)) for shift, scale in pairs]
    shape = 1, -1, *[1] * (teacher.dim() - 2)
    target = torch.max(teacher, torch.tensor(margins, dtype=teacher.dtype).view(shape))
    skipped = (student <= target) & (target <= 0)
    return (((student - target) ** 2) * (~skipped).to(student.dtype)).sum() / len(student)
