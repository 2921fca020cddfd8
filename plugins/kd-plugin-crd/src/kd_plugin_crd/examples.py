"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kd_plugin_crd.loss import CRDLoss
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


def begun(loss: CRDLoss) -> None:
    """Set Z, which the first batch of a training sets for good and which is a constant to the gradient."""
    loss.normalizer.fill_(2.0)


def features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {"x": torch.randn(batch, 3, 2, 2, generator=generator)}


FACTS = Facts(num_samples=SAMPLES, num_classes=4, targets=TARGETS)
DRAWN = {"batch_order": "negatives are drawn by place", "halves": "every pass draws negatives of its own"}
FEW = {"type": "digits", "params": {"samples_per_class": 2}}
BOTH = ("student", "teacher")
EXAMPLES = {
    "crd": [
        Example(inputs=contrasted, facts=FACTS, learns=BOTH, fixed=(), prepare=begun),
        Example(
            name="drawn",
            inputs=embeddings,
            facts=FACTS,
            params={"num_negatives": 5},
            learns=BOTH,
            fixed=(),
            prepare=begun,
            skip=DRAWN,
        ),
    ],
    "contrasted": [
        Example(params={"dataset": FEW, "num_negatives": 5}),
        Example(name="relaxed", params={"dataset": FEW, "num_negatives": 5, "sampling": "relax", "positive": "class"}),
    ],
    "crd_head": [Example(inputs=features, params={"out_features": 5})],
}
