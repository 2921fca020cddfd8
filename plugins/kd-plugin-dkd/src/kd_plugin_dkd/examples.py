"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def labelled(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and labels."""
    made = {name: torch.randn(batch, 5, generator=generator) for name in ("student", "teacher")}
    return {**made, "target": torch.randint(5, (batch,), generator=generator)}


def tokens(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and labels of several positions."""
    made = {name: torch.randn(batch, 3, 5, generator=generator) for name in ("student", "teacher")}
    return {**made, "target": torch.randint(5, (batch, 3), generator=generator)}


EXAMPLES = [
    Example(inputs=labelled),
    Example(name="tokens", inputs=tokens, params={"alpha": 0.5, "beta": 2, "temperature": 1}),
]
