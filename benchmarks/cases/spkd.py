"""Cases of kd-plugin-spkd."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def features(*shape: int) -> Inputs:
    """Return features of student and teacher."""
    return {"student": torch.randn(shape, requires_grad=True), "teacher": torch.randn(shape)}


CASES = [
    Case(
        f"spkd B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "spkd"),
        lambda: textbook_forms("kd-plugin-spkd").at_once,
        lambda shape=shape: features(*shape),
        rounds=rounds,
    )
    for shape, rounds in (((64, 512, 7, 7), 21), ((256, 128), 51))
]
