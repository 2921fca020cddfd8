"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.testing import Example

SUM = {
    "halves": "the logarithm goes over the sum of the whole batch",
    "equal_value": "the logarithm of no difference is as low as numbers go",
}


def logits(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits."""
    return {name: torch.randn(batch, 5, generator=generator) for name in ("student", "teacher")}


def with_features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and features."""
    made = {f"{name}_feature": torch.randn(batch, 4, generator=generator) for name in ("student", "teacher")}
    return {**logits(generator, batch), **made}


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {"x": torch.randn(batch, 3, 4, 4, generator=generator)}


EXAMPLES = {
    "srd": [
        Example(inputs=with_features, skip=SUM),
        Example(name="odd", inputs=with_features, params={"exponent": 3.5, "temperature": 4}, skip=SUM),
    ],
    "srd_projector": [
        Example(inputs=maps, facts=Facts(like=TensorFacts((4, 6, 2, 2), torch.float32))),
        Example(name="teacher", inputs=maps, params={"linear": False}),
    ],
}
