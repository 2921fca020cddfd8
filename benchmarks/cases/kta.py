"""Cases of kd-plugin-kta."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def maps(*shape: int) -> Inputs:
    """Return feature maps of both sides."""
    return {"student": torch.randn(shape, requires_grad=True), "teacher": torch.randn(shape)}


CASES = [
    *(
        Case(
            f"affinity {axis} B{shape[0]} {'x'.join(map(str, shape[1:]))}",
            lambda axis=axis: create("loss", "affinity", axis=axis),
            lambda axis=axis: getattr(textbook_forms("kd-plugin-kta"), f"by_{axis}"),
            lambda shape=shape: maps(*shape),
            rounds=5,
            reached=reached,
        )
        for axis, shape, reached in (
            ("channel", (4, 64, 28, 28), 2),
            ("position", (4, 64, 28, 28), None),
            ("position", (64, 512, 7, 7), None),
        )
    ),
    Case(
        "kta B64 256x7x7",
        lambda: create("loss", "kta"),
        lambda: textbook_forms("kd-plugin-kta").kta,
        lambda: maps(64, 256, 7, 7),
    ),
]
