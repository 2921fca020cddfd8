"""Cases of kd-plugin-ft."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def factors(*shape: int) -> Inputs:
    """Return factors of student and teacher."""
    return {
        "student": torch.randn(shape, requires_grad=True),
        "teacher": torch.randn(shape),
    }


CASES = [
    Case(
        f"ft B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "ft"),
        lambda: textbook_forms("kd-plugin-ft").at_once,
        lambda shape=shape: factors(*shape),
        rounds=rounds,
        reached=reached,
    )
    for shape, rounds, reached in (((64, 256, 7, 7), 21, None), ((64, 32, 28, 28), 21, None))
]
