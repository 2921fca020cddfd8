"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kdcore.contracts import Facts
from kdcore.testing import Example

SAMPLES, DIM = 12, 6
TARGETS = torch.arange(SAMPLES) % 4


def embeddings(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return embeddings of length one and where their samples stand."""
    names = ("student", "teacher")
    made = {name: F.normalize(torch.randn(batch, DIM, generator=generator)) for name in names}
    return {**made, "index": torch.randperm(SAMPLES, generator=generator)[:batch]}


def contrasted(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return the same with candidates, as a data set may draw them."""
    made = embeddings(generator, batch)
    others = torch.stack([torch.randperm(SAMPLES - 1, generator=generator)[:5] for _ in range(batch)])
    index = made["index"].unsqueeze(1)
    return {**made, "contrast_index": torch.cat([index, others + (others >= index)], 1)}


def features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {"x": torch.randn(batch, 3, 2, 2, generator=generator)}


FACTS = Facts(num_samples=SAMPLES, num_classes=4, targets=TARGETS)
FIRST = {
    "gradients": "Z, which the first batch sets, is a constant for the gradient on purpose; finite differences move it",
    "halves": "Z is set by the first batch, be it a half or a whole one",
}
DRAWN = {**FIRST, "batch_order": "negatives are drawn by place"}
BOTH = ("student", "teacher")
EXAMPLES = {
    "crd": [
        Example(inputs=contrasted, facts=FACTS, learns=BOTH, fixed=(), skip=FIRST),
        Example(
            name="drawn", inputs=embeddings, facts=FACTS, params={"num_negatives": 5}, learns=BOTH, fixed=(), skip=DRAWN
        ),
    ],
    "crd_head": [Example(inputs=features, params={"out_features": 5})],
}
