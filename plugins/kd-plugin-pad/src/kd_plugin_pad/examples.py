"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.testing import Example


def embeddings(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return embeddings of both sides and the logarithms of variances."""
    return {name: torch.randn(batch, 6, generator=generator) for name in ("student", "teacher", "log_variance")}


def features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {"x": torch.randn(batch, 3, 2, 2, generator=generator)}


NORMS = {"processes": "batch normalisation keeps the statistics of its own process"}
VARIANCE = dict.fromkeys(("equal_value", "equal_gradient"), "a smaller variance costs less still")
EXAMPLES = {
    "pad_l2": [Example(inputs=embeddings, learns=("student", "log_variance"), skip=VARIANCE)],
    "pad_variance": [Example(inputs=features, facts=Facts(like=TensorFacts((4, 5), torch.float32)), skip=NORMS)],
}
