"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

NAMES = ("student_first", "student_second", "teacher_first", "teacher_second")


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return maps of two layers with as many channels on both sides, the second layer's half as large."""
    shapes = {name: (3, 4, 4) if "first" in name else (4, 2, 2) for name in NAMES}
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}


def wide(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return maps with many channels and few positions, in any batch enough for the form without C1 x C2 numbers."""
    return {name: torch.randn(batch, 256, 2, generator=generator) for name in NAMES}


EXAMPLES = [
    Example(inputs=maps),
    Example(name="few_positions", inputs=wide),
    Example(name="columns", inputs=maps, params={"norm": "columns"}),
]
