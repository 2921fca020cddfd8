"""Cases of kd-plugin-srd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def inputs(batch: int, classes: int, features: int) -> Inputs:
    """Return logits and features of student and teacher."""
    return {
        "student": torch.randn(batch, classes, requires_grad=True),
        "teacher": torch.randn(batch, classes),
        "student_feature": torch.randn(batch, features, requires_grad=True),
        "teacher_feature": torch.randn(batch, features),
    }


CASES = [
    Case(
        f"srd B{batch} C{classes} D{features}",
        lambda: create("loss", "srd"),
        lambda: textbook_forms("kd-plugin-srd").srd,
        lambda size=(batch, classes, features): inputs(*size),
        rounds=rounds,
    )
    for batch, classes, features, rounds in ((128, 100, 512, 101), (256, 1000, 2048, 31))
]
