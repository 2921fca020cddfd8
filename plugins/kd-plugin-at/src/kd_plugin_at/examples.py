"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape."""
    return {name: torch.randn(batch, 3, 4, 4, generator=generator) for name in ("student", "teacher")}


def wider(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return one-dimensional feature maps, the teacher's with more channels."""
    made = {"student": torch.randn(batch, 3, 8, generator=generator)}
    return {**made, "teacher": torch.randn(batch, 5, 8, generator=generator)}


EXAMPLES = [
    Example(inputs=maps),
    Example(name="paper", inputs=maps, params={"mode": "paper"}),
    Example(name="cubes", inputs=wider, params={"p": 3}),
]
