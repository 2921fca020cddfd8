"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

PAIRS = {"halves": "the samples of a batch are compared with each other, also across its halves"}


def features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return vectors, the teacher's longer."""
    made = {"student": torch.randn(batch, 3, generator=generator)}
    return {**made, "teacher": torch.randn(batch, 5, generator=generator)}


def alike(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return vectors that are equal."""
    student = torch.randn(batch, 5, generator=generator)
    return {"student": student, "teacher": student.clone()}


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape."""
    return {name: torch.randn(batch, 3, 2, 2, generator=generator) for name in ("student", "teacher")}


EXAMPLES = [
    Example(inputs=maps, near_equality=1e-3, skip=PAIRS),
    Example(name="l1", inputs=features, equal=alike, params={"normalize": "l1"}, skip=PAIRS),
    Example(name="sum", inputs=features, equal=alike, params={"reduction": "sum"}, skip=PAIRS),
]
