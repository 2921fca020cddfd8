"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def images(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return images of 8 x 8 pixels."""
    return {"input": torch.rand(batch, 1, 8, 8, generator=generator)}


# Batch normalisation compares the samples of a batch, and a single one has no variance once it is a pixel wide.
EXAMPLES = {
    "digits": [Example(), Example(name="augmented", params={"augment": True, "samples_per_class": 2})],
    "digits_cnn": [Example(inputs=images, params={"width": 2})],
    "digits_mlp": [Example(inputs=images, params={"dropout": 0.1}, skip={"batch_order": "dropout draws by place"})],
}
