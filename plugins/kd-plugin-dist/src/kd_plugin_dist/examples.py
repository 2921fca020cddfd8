"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

RELATED = {"halves": "the samples of a batch are compared with each other, also across its halves"}

CONSTANT = {"equal_zeros": "what does not vary correlates with nothing, also with what does not vary either"}
SIMILAR = {"equal_value": "the similarity of equal channels is added, and it is 1"}


def logits(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits; the mean of zeros' probabilities, a tenth each, is off by rounding."""
    return {name: torch.randn(batch, 10, generator=generator) for name in ("student", "teacher")}


def with_features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and features."""
    made = {f"{name}_feature": torch.randn(batch, 6, 3, 3, generator=generator) for name in ("student", "teacher")}
    return {**logits(generator, batch), **made}


EXAMPLES = {
    "dist": [
        Example(inputs=logits, skip={**RELATED, **CONSTANT}),
        Example(name="classes", inputs=logits, params={"gamma": 0, "tau": 4}, skip=CONSTANT),
    ],
    "dist_plus": [
        Example(inputs=with_features, skip={**RELATED, **CONSTANT}),
        Example(name="channels", inputs=with_features, params={"gamma": 0, "kappa": 0}, skip=CONSTANT),
        Example(
            name="similarity",
            inputs=with_features,
            params={"channel_term": "similarity"},
            skip={**RELATED, **SIMILAR},
        ),
    ],
}
