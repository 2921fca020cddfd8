"""Examples on which the conformance checks run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

REVIEWS = str(Path(__file__).with_name("reviews.csv"))
HERE = str(Path(__file__))
TINY = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 8, "vocab_size": 16}
BYTES = {"type": "bytes"}


def tokens(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return short sequences."""
    return {"input_ids": torch.randint(16, (batch, 6), generator=generator)}


EXAMPLES = {
    "hf_model": [
        Example(
            inputs=tokens,
            params={"config": {**TINY, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}},
            skip={"bounds_accepted": "no architecture has a head for every task"},
        )
    ],
    "hf_text": [Example(params={"tokenizer": BYTES, "files": [HERE], "split_by": "position", "block_size": 16})],
    "hf_text_classification": [
        Example(
            params={"tokenizer": BYTES, "file": REVIEWS, "max_length": 16},
            skip={"bounds_accepted": "four rows are not enough for every split"},
        )
    ],
}
