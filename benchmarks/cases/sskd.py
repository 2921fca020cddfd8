"""Cases of kd-plugin-sskd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def inputs(rows: int, dim: int, classes: int) -> Inputs:
    """Return logits and embeddings of both sides, and a label for each image."""
    return {
        "student": torch.randn(rows, classes, requires_grad=True),
        "teacher": torch.randn(rows, classes),
        "student_embedding": torch.randn(rows, dim, requires_grad=True),
        "teacher_embedding": torch.randn(rows, dim),
        "target": torch.randint(classes, (rows // 4,)),
    }


CASES = [
    *(
        Case(
            f"sskd_auxiliary B{rows} D{dim}",
            lambda: create("loss", "sskd_auxiliary"),
            lambda: textbook_forms("kd-plugin-sskd").auxiliary,
            lambda rows=rows, dim=dim: {"embedding": torch.randn(rows, dim, requires_grad=True)},
            reached=reached,
        )
        for rows, dim, reached in ((256, 512, 2), (64, 128, None))
    ),
    Case(
        "sskd B256 D512 C100",
        lambda: create("loss", "sskd"),
        lambda: textbook_forms("kd-plugin-sskd").sskd,
        lambda: inputs(256, 512, 100),
    ),
]
