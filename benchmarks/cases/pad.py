"""Cases of kd-plugin-pad."""

from __future__ import annotations

import torch
from losses import Case, textbook_forms

from kdcore import create

CASES = [
    Case(
        f"pad_l2 B{batch} D{dim}",
        lambda: create("loss", "pad_l2"),
        lambda: textbook_forms("kd-plugin-pad").pad_l2,
        lambda shape=(batch, dim): {
            "student": torch.randn(shape, requires_grad=True),
            "teacher": torch.randn(shape),
            "log_variance": torch.randn(shape, requires_grad=True),
        },
        rounds=31,
    )
    for batch, dim in ((256, 512), (64, 2048))
]
