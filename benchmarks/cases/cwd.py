"""Cases of kd-plugin-cwd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def maps(batch: int, channels: int, side: int) -> Inputs:
    """Return feature maps of student and teacher."""
    shape = (batch, channels, side, side)
    return {"student": torch.randn(shape, requires_grad=True), "teacher": torch.randn(shape)}


CASES = [
    Case(
        f"cwd B{batch} {channels}x{side}x{side}",
        lambda: create("loss", "cwd"),
        lambda: textbook_forms("kd-plugin-cwd").cwd_at_once,
        lambda size=(batch, channels, side): maps(*size),
        rounds=rounds,
    )
    for batch, channels, side, rounds in ((16, 64, 14, 31), (4, 19, 128, 15))
]
