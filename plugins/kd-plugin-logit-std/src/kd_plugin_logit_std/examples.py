"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def logits(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits."""
    return {name: torch.randn(batch, 5, generator=generator) for name in ("student", "teacher")}


def tokens(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits of several positions."""
    return {name: torch.randn(batch, 3, 5, generator=generator) for name in ("student", "teacher")}


EXAMPLES = [
    Example(inputs=logits),
    Example(name="tokens", inputs=tokens, params={"reduction": "tokens", "temperature": 1}),
]
