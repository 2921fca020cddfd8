"""Cases of kd-plugin-cckd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def features(*shape: int) -> Inputs:
    """Return features of student and teacher."""
    return {"student": torch.randn(shape, requires_grad=True), "teacher": torch.randn(shape)}


CASES = [
    Case(
        f"cckd B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "cckd"),
        lambda: textbook_forms("kd-plugin-cckd").cckd,
        lambda shape=shape: features(*shape),
        rounds=rounds,
        reached=reached,
    )
    for shape, rounds, reached in (((256, 128), 21, 2), ((64, 512), 51, None))
]
