"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape."""
    return {name: torch.randn(batch, 3, 2, 3, generator=generator) for name in ("student", "teacher")}


def wide(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return maps with many channels and few positions, in any batch enough for the form without C x C numbers."""
    return {name: torch.randn(batch, 256, 2, generator=generator) for name in ("student", "teacher")}


BATCH_NORM = {
    "processes": "batch normalisation keeps the statistics of its own process's samples, as everywhere in torch"
}


def x(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return the student's feature maps."""
    return {"x": torch.randn(batch, 3, 4, 4, generator=generator)}


EXAMPLES = {
    "ickd": [
        Example(inputs=maps),
        Example(name="few_positions", inputs=wide),
        Example(
            name="batch_squared",
            inputs=maps,
            params={"batch_exponent": 2},
            skip={"halves": "with batch_exponent 2 the value falls with the batch size"},
        ),
    ],
    "ickd_embed": [Example(inputs=x, skip=BATCH_NORM, facts=Facts(like=TensorFacts((4, 6, 4, 4), torch.float32)))],
}
