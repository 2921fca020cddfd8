"""Examples on which the conformance checks run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, nn

from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Any]:
    """Return feature maps of both sides and the batch norm behind the teacher's."""
    norm = nn.BatchNorm2d(3).requires_grad_(False)
    norm.bias.copy_(torch.tensor([-0.5, 0.0, 0.5]))
    made = {name: torch.randn(batch, 3, 4, 4, generator=generator) for name in ("student", "teacher")}
    return {**made, "norm": norm}


EXAMPLES = [Example(inputs=maps, learns=("student",), batch_dims={"norm": None})]
