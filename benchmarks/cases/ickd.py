"""Cases of kd-plugin-ickd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def maps(*shape: int) -> Inputs:
    """Return feature maps of student and teacher."""
    return {
        "student": torch.randn(shape, requires_grad=True),
        "teacher": torch.randn(shape),
    }


CASES = [
    Case(
        f"ickd B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "ickd"),
        lambda: textbook_forms("kd-plugin-ickd").ickd,
        lambda shape=shape: maps(*shape),
        rounds=rounds,
        reached=reached,
    )
    for shape, rounds, reached in (((64, 512, 7, 7), 7, 59), ((64, 128, 7, 7), 7, None), ((32, 64, 28, 28), 11, None))
]
