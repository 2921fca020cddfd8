"""Cases of kd-plugin-mlp-mft."""

from __future__ import annotations

from functools import partial

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create

PARAMS = {"threshold": 0.2, "temperature": 1.0}


def inputs(batch: int, classes: int) -> Inputs:
    """Return logits of student and teacher, and labels."""
    student, teacher = torch.randn(batch, classes, requires_grad=True), torch.randn(batch, classes)
    return {"student": student, "teacher": teacher, "target": torch.randint(classes, (batch,))}


CASES = [
    Case(
        f"mft B{batch} C{classes}",
        lambda: create("loss", "mft", **PARAMS),
        lambda: partial(textbook_forms("kd-plugin-mlp-mft").mft_at_once, **PARAMS),
        lambda batch=batch, classes=classes: inputs(batch, classes),
        rounds=rounds,
    )
    for batch, classes, rounds in ((128, 100, 101), (64, 32768, 7))
]
