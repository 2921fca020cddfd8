"""Examples on which the conformance checks run; they need kd-plugin-digits, whose type the example is of."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

FOLDER = str(Path(__file__).with_name("example"))


def images(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return images of 8 x 8 pixels."""
    return {"input": torch.rand(batch, 1, 8, 8, generator=generator)}


EXAMPLES = {"compact": [Example(inputs=images, params={"folder": FOLDER})]}
