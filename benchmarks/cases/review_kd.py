"""Cases of kd-plugin-review-kd."""

from __future__ import annotations

import torch
from losses import Case, textbook_forms

from kdcore import create

CASES = [
    Case(
        f"hierarchical_context B{batch} {channels}x{size}x{size}",
        lambda: create("loss", "hierarchical_context"),
        lambda: textbook_forms("kd-plugin-review-kd").hierarchical_context,
        lambda shape=(batch, channels, size, size): {
            "student": torch.randn(shape, requires_grad=True),
            "teacher": torch.randn(shape),
        },
    )
    for batch, channels, size in ((64, 512, 7), (32, 64, 56))
]
