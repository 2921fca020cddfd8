"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

ENTROPY = {"equal_value": "cross entropy is least at equality, where the deeper exit's entropy remains"}


def logits(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits."""
    return {name: torch.randn(batch, 5, generator=generator) for name in ("student", "teacher")}


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {name: torch.randn(batch, 3, 4, 4, generator=generator) for name in ("student", "teacher")}


EXAMPLES = [
    Example(inputs=logits, skip=ENTROPY),
    Example(name="kl", inputs=logits, params={"divergence": "kl", "temperature": 3}),
    Example(name="l2", inputs=maps, params={"divergence": "l2"}),
    Example(name="tokens", inputs=logits, params={"reduction": "tokens"}, skip=ENTROPY),
]
