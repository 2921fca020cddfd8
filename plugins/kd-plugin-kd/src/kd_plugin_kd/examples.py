"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

CLASSES = 5

ENTROPY = {"equal_value": "cross entropy is least at equality, where the teacher's entropy remains"}


def logits(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits of images."""
    return {name: torch.randn(batch, CLASSES, generator=generator) for name in ("student", "teacher")}


def masked_tokens(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits of positions and which of these count, another number in each row."""
    made = {name: torch.randn(batch, 3, CLASSES, generator=generator) for name in ("student", "teacher")}
    return {**made, "mask": torch.arange(3) <= (torch.arange(batch) % 3).unsqueeze(1)}


EXAMPLES = [
    Example(inputs=logits),
    Example(
        name="cross_entropy",
        inputs=logits,
        params={"divergence": "cross_entropy", "temperature": 2.0},
        skip=ENTROPY,
    ),
    Example(name="mse", inputs=logits, params={"divergence": "mse", "reduction": "batchmean"}),
    Example(name="tokens", inputs=masked_tokens, params={"reduction": "tokens"}),
]
