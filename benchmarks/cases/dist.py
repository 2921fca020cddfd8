"""Cases of kd-plugin-dist."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def logits(batch: int, classes: int) -> Inputs:
    """Return logits of student and teacher."""
    return {"student": torch.randn(batch, classes, requires_grad=True), "teacher": torch.randn(batch, classes)}


def features(batch: int, channels: int, side: int) -> Inputs:
    """Return logits and feature maps of student and teacher."""
    shape = (batch, channels, side, side)
    maps = {"student_feature": torch.randn(shape, requires_grad=True), "teacher_feature": torch.randn(shape)}
    return {**logits(batch, 100), **maps}


CASES = [
    *(
        Case(
            f"dist B{batch} C{classes}",
            lambda: create("loss", "dist"),
            lambda: textbook_forms("kd-plugin-dist").dist,
            lambda batch=batch, classes=classes: logits(batch, classes),
            rounds=rounds,
        )
        for batch, classes, rounds in ((128, 100, 101), (256, 1000, 31))
    ),
    *(
        Case(
            f"dist_plus B{batch} {channels}x{side}x{side}",
            lambda: create("loss", "dist_plus"),
            lambda: textbook_forms("kd-plugin-dist").dist_plus,
            lambda size=(batch, channels, side): features(*size),
            rounds=11,
        )
        for batch, channels, side in ((64, 512, 7), (16, 256, 28))
    ),
]
