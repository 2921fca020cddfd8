"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {name: torch.randn(batch, 3, 4, 4, generator=generator) for name in ("student", "teacher")}


EXAMPLES = [Example(inputs=maps), Example(name="sharp", inputs=maps, params={"temperature": 1})]
