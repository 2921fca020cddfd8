"""Cases of kd-plugin-kd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from losses import Case, Inputs
from torch import Tensor

from kdcore import create


def textbook(student: Tensor, teacher: Tensor) -> Tensor:
    """Hinton's loss as most loops write it, at temperature 4."""
    return 16 * F.kl_div(F.log_softmax(student / 4, -1), F.softmax(teacher / 4, -1), reduction="batchmean")


def logits(batch: int, classes: int) -> Inputs:
    """Return logits of student and teacher."""
    return {"student": torch.randn(batch, classes, requires_grad=True), "teacher": torch.randn(batch, classes)}


CASES = [
    Case(
        f"kd B{batch} C{classes}",
        lambda: create("loss", "kd", temperature=4.0),
        lambda: textbook,
        lambda batch=batch, classes=classes: logits(batch, classes),
        rounds=rounds,
    )
    for batch, classes, rounds in ((128, 100, 101), (256, 1000, 51), (64, 32768, 7))
]
