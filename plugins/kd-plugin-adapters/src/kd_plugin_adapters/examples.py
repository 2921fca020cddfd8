"""Examples on which the conformance checks run, of the adapters for which an output of the size of `x` shows little."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {"x": torch.randn(batch, 6, 4, 4, generator=generator)}


EXAMPLES = {
    "pool": [Example(inputs=maps, facts=Facts(like=TensorFacts((4, 8, 2, 2), torch.float32)))],
    "resize": [Example(inputs=maps, facts=Facts(like=TensorFacts((4, 8, 6, 6), torch.float32)))],
}
