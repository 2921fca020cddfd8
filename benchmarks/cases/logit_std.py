"""Cases of kd-plugin-logit-std."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms
from torch import Tensor

from kdcore import create


def textbook(student: Tensor, teacher: Tensor) -> Tensor:
    """Average the textbook form over the distributions."""
    losses: Tensor = textbook_forms("kd-plugin-logit-std").logit_std_kd(student, teacher)
    return losses.mean()


def logits(batch: int, classes: int) -> Inputs:
    """Return logits of student and teacher."""
    return {"student": torch.randn(batch, classes, requires_grad=True), "teacher": torch.randn(batch, classes)}


CASES = [
    Case(
        f"logit_std_kd B{batch} C{classes}",
        lambda: create("loss", "logit_std_kd"),
        lambda: textbook,
        lambda batch=batch, classes=classes: logits(batch, classes),
        rounds=rounds,
    )
    for batch, classes, rounds in ((128, 100, 101), (256, 1000, 31))
]
