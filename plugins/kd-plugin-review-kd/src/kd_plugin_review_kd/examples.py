"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape."""
    return {name: torch.randn(batch, 3, 5, 6, generator=generator) for name in ("student", "teacher")}


def layers(generator: Generator, batch: int) -> dict[str, list[Tensor]]:
    """Return two layers of each network, of different sizes."""
    shapes = {"student": ((2, 4, 4), (3, 2, 2)), "teacher": ((4, 4, 4), (5, 2, 2))}
    return {name: [torch.randn(batch, *each, generator=generator) for each in sizes] for name, sizes in shapes.items()}


def alone(generator: Generator, batch: int) -> dict[str, list[Tensor]]:
    """Return a feature map and features of the student's only."""
    return {"student": [torch.randn(batch, *each, generator=generator) for each in ((2, 4, 4), (3,))]}


SUM = {"halves": "a sum grows with the batch"}
NORMS = {"processes": "batch normalisation keeps the statistics of its own process"}
EXAMPLES = {
    "hierarchical_context": [
        Example(inputs=maps, near_equality=1e-3),
        Example(name="sum", inputs=maps, params={"reduction": "sum"}, skip=SUM),
    ],
    "review_fusion": [
        Example(inputs=layers, learns=("student",), skip=NORMS),
        Example(name="alone", inputs=alone, params={"out_channels": [4, 5]}, skip=NORMS),
    ],
}
