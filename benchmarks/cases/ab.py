"""Cases of kd-plugin-ab."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def responses(*shape: int) -> Inputs:
    """Return responses of student and teacher."""
    return {
        "student": torch.randn(shape, requires_grad=True),
        "teacher": torch.randn(shape),
    }


CASES = [
    Case(
        f"ab B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "ab"),
        lambda: textbook_forms("kd-plugin-ab").ab,
        lambda shape=shape: responses(*shape),
        rounds=rounds,
        reached=reached,
    )
    for shape, rounds, reached in (((64, 512, 7, 7), 11, None), ((64, 64, 28, 28), 11, None))
]
