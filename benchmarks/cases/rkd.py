"""Cases of kd-plugin-rkd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def features(*shape: int) -> Inputs:
    """Return features of student and teacher."""
    return {"student": torch.randn(shape, requires_grad=True), "teacher": torch.randn(shape)}


CASES = [
    Case(
        f"rkd B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "rkd"),
        lambda: textbook_forms("kd-plugin-rkd").rkd,
        lambda shape=shape: features(*shape),
        rounds=rounds,
        reached=reached,
    )
    for shape, rounds, reached in (((64, 512, 7, 7), 3, 56), ((256, 512), 3, 776), ((32, 16), 51, None))
]
