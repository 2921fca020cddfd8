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


def alike(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return one-dimensional feature maps that are equal."""
    student = torch.randn(batch, 3, 8, generator=generator)
    return {"student": student, "teacher": student.clone()}


EXAMPLES = [
    Example(inputs=maps, near_equality=1e-3),
    Example(name="paper", inputs=maps, params={"mode": "paper"}, near_equality=1e-3),
    Example(name="cubes", inputs=wider, equal=alike, params={"p": 3}),
]
