"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape, with more positions than channels."""
    return {name: torch.randn(batch, 3, 4, 4, generator=generator) for name in ("student", "teacher")}


def small(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps with more channels than positions."""
    return {name: torch.randn(batch, 6, 2, 2, generator=generator) for name in ("student", "teacher")}


def one(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return one feature map."""
    return {"x": torch.randn(batch, 3, 4, 4, generator=generator)}


FACTS = Facts(like=TensorFacts((4, 5, 4, 4), torch.float32))
NORMS = {"processes": "batch normalisation keeps the statistics of its own process"}
EXAMPLES = {
    "kta": [
        Example(inputs=maps, near_equality=1e-3),
        Example(name="norm", inputs=maps, params={"p": 2}, near_equality=1e-3),
    ],
    "affinity": [
        Example(inputs=maps),
        Example(name="small", inputs=small),
        Example(name="channel", inputs=maps, params={"axis": "channel"}),
    ],
    "kta_adapter": [Example(inputs=one, facts=FACTS, skip=NORMS)],
    "affinity_adapter": [Example(inputs=one, facts=FACTS)],
}
