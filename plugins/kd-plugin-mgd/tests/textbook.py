"""The paper's objective with given weights and mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


def mgd(student: Tensor, teacher: Tensor, weights: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Align, mask, generate, compare; summed over a sample's elements and averaged over the batch."""
    if "align.weight" in weights:
        student = F.conv2d(student, weights["align.weight"], weights["align.bias"])
    hidden = F.conv2d(student * mask, weights["generator.0.weight"], weights["generator.0.bias"], padding=1)
    generated = F.conv2d(hidden.relu(), weights["generator.2.weight"], weights["generator.2.bias"], padding=1)
    return F.mse_loss(generated, teacher, reduction="sum") / len(student)
