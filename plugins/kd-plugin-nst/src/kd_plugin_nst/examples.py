"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape."""
    return {name: torch.randn(batch, 3, 2, 3, generator=generator) for name in ("student", "teacher")}


def wide(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return maps of one spatial dimension with more channels than positions, the teacher's with still more."""
    made = {"student": torch.randn(batch, 5, 4, generator=generator)}
    return {**made, "teacher": torch.randn(batch, 7, 4, generator=generator)}


def alike(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return maps with more channels than positions that are equal."""
    student = torch.randn(batch, 5, 4, generator=generator)
    return {"student": student, "teacher": student.clone()}


EXAMPLES = [
    Example(inputs=maps),
    Example(name="few_positions", inputs=wide, equal=alike),
    Example(name="linear", inputs=wide, equal=alike, params={"kernel": "linear"}),
    Example(name="gaussian", inputs=wide, equal=alike, params={"kernel": "gaussian"}),
]
