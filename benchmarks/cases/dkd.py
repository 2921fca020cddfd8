"""Cases of kd-plugin-dkd."""

from __future__ import annotations

from functools import partial

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create

PARAMS = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}


def inputs(batch: int, classes: int) -> Inputs:
    """Return logits of student and teacher, and labels."""
    student, teacher = torch.randn(batch, classes, requires_grad=True), torch.randn(batch, classes)
    return {"student": student, "teacher": teacher, "target": torch.randint(classes, (batch,))}


CASES = [
    Case(
        f"dkd B{batch} C{classes}",
        lambda: create("loss", "dkd", **PARAMS),
        lambda: partial(textbook_forms("kd-plugin-dkd").dkd, **PARAMS),
        lambda batch=batch, classes=classes: inputs(batch, classes),
        rounds=rounds,
    )
    for batch, classes, rounds in ((128, 100, 101), (256, 1000, 51))
]
