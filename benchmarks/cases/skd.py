"""Cases of kd-plugin-skd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def logits(batch: int, classes: int) -> Inputs:
    """Return logits of student and teacher."""
    return {"student": torch.randn(batch, classes, requires_grad=True), "teacher": torch.randn(batch, classes)}


CASES = [
    Case(
        f"skd_direction B{batch} C{classes}",
        lambda: create("loss", "skd_direction"),
        lambda: textbook_forms("kd-plugin-skd").skd_direction,
        lambda batch=batch, classes=classes: logits(batch, classes),
        rounds=rounds,
    )
    for batch, classes, rounds in ((64, 100, 101), (256, 1000, 15))
]
