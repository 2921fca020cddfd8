"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

WHOLE = {"halves": "the norm goes over the whole batch, so it grows with it"}


def features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return features."""
    return {"input": torch.randn(batch, 3, 4, generator=generator)}


EXAMPLES = [
    Example(inputs=features, skip=WHOLE),
    Example(name="length", inputs=features, params={"p": 2}, skip=WHOLE),
]
