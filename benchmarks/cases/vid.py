"""Cases of kd-plugin-vid."""

from __future__ import annotations

import torch
from losses import Case, Inputs, textbook_forms

from kdcore import create


def features(*shape: int) -> Inputs:
    """Return a Gaussian and the features of the teacher."""
    return {
        "mean": torch.randn(shape, requires_grad=True),
        "variance": torch.rand(1, shape[1], 1, 1).add(0.5).requires_grad_(),
        "teacher": torch.randn(shape),
    }


CASES = [
    Case(
        f"vid B{shape[0]} {'x'.join(map(str, shape[1:]))}",
        lambda: create("loss", "vid"),
        lambda: textbook_forms("kd-plugin-vid").vid,
        lambda shape=shape: features(*shape),
        rounds=rounds,
        reached=reached,
    )
    for shape, rounds, reached in (((64, 512, 7, 7), 11, None), ((64, 64, 28, 28), 11, None))
]
