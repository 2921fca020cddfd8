"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

RELATED = {"halves": "the samples of a batch are compared with each other, also across its halves"}


def logits(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits."""
    return {name: torch.randn(batch, 5, generator=generator) for name in ("student", "teacher")}


EXAMPLES = [
    Example(inputs=logits, near_equality=1e-3, skip=RELATED),
    Example(name="large", inputs=logits, params={"tikhonov": 10}, near_equality=1e-3, skip=RELATED),
]
