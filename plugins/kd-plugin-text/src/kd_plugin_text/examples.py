"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

SMALL = {"vocab_size": 16, "dim": 8, "depth": 1, "heads": 2, "max_length": 8}


def tokens(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return short sequences."""
    return {"input": torch.randint(16, (batch, 6), generator=generator)}


EXAMPLES = {
    "text_bytes": [Example(params={"limit": 8})],
    "text_transformer": [
        Example(inputs=tokens, params=SMALL),
        Example(name="untied", inputs=tokens, params={**SMALL, "tied": False}),
    ],
}
