"""Cases of kd-plugin-fsp."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def maps(*shape: int) -> Inputs:
    """Return two feature maps of student and teacher."""
    return {
        "student_first": torch.randn(shape, requires_grad=True),
        "student_second": torch.randn(shape, requires_grad=True),
        "teacher_first": torch.randn(shape),
        "teacher_second": torch.randn(shape),
    }


CASES = [
    Case(
        f"fsp B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "fsp"),
        lambda: textbook_forms("kd-plugin-fsp").fsp,
        lambda shape=shape: maps(*shape),
        rounds=rounds,
        reached=reached,
    )
    for shape, rounds, reached in (((64, 512, 7, 7), 7, 65), ((64, 256, 7, 7), 7, None), ((32, 64, 28, 28), 11, None))
]
