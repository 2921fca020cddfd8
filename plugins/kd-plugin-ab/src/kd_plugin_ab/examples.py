"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape."""
    return {name: torch.randn(batch, 3, 2, 3, generator=generator) for name in ("student", "teacher")}


BATCH_NORM = {
    "processes": "batch normalisation keeps the statistics of its own process's samples, as everywhere in torch"
}


def x(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return the student's feature maps."""
    return {"x": torch.randn(batch, 3, 4, 4, generator=generator)}


MARGIN = dict.fromkeys(
    ("equal_value", "equal_gradient"), "every response must lie beyond a margin, one that equals its teacher's too"
)
EXAMPLES = {
    "ab": [
        Example(inputs=maps, skip=MARGIN),
        Example(
            name="sum",
            inputs=maps,
            params={"margin": 2.0, "reduction": "sum"},
            skip={**MARGIN, "halves": "the sum over samples grows with the batch"},
        ),
    ],
    "ab_connector": [Example(inputs=x, skip=BATCH_NORM, facts=Facts(like=TensorFacts((4, 6, 4, 4), torch.float32)))],
}
