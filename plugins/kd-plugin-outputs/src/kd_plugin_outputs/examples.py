"""Examples on which the conformance checks run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

CLASSES = 5


def _logits(generator: Generator, batch: int) -> Tensor:
    return torch.randn(batch, CLASSES, generator=generator)


def tensor(generator: Generator, batch: int) -> dict[str, Any]:
    """Return the output of a plain classifier."""
    return {"output": _logits(generator, batch), "batch": {}}


def several(generator: Generator, batch: int) -> dict[str, Any]:
    """Return a tuple of logits and features."""
    return {"output": (_logits(generator, batch), torch.randn(batch, 7, generator=generator)), "batch": {}}


def named(generator: Generator, batch: int) -> dict[str, Any]:
    """Return a dict of logits and hidden states."""
    hidden = tuple(torch.randn(batch, 7, generator=generator) for _ in range(2))
    return {"output": {"logits": _logits(generator, batch), "hidden": hidden}, "batch": {}}


def with_losses(generator: Generator, batch: int) -> dict[str, Any]:
    """Return the losses of a detector in training."""
    return {
        "output": {"box": torch.rand((), generator=generator), "label": torch.rand((), generator=generator)},
        "batch": {},
    }


EXAMPLES = {
    "auto": [Example(inputs=tensor), Example(name="tuple", inputs=several), Example(name="dict", inputs=named)],
    "item": [
        Example(inputs=named, params={"key": "logits"}),
        Example(name="index", inputs=several, params={"index": -1}),
    ],
    "model_losses": [Example(inputs=with_losses)],
}
