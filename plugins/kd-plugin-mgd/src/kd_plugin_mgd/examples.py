"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example


def maps(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of one shape."""
    return {name: torch.randn(batch, 3, 4, 4, generator=generator) for name in ("student", "teacher")}


def wider(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps of different channels."""
    return {"student": maps(generator, batch)["student"], "teacher": torch.randn(batch, 5, 4, 4, generator=generator)}


GENERATED = dict.fromkeys(
    ("equal_value", "equal_gradient"), "the teacher's map is generated from the student's, and not compared with it"
)
MASKED = {
    "batch_order": "masks are drawn by place",
    "halves": "every pass draws masks of its own",
    "evaluation_alike": "in evaluation nothing is masked, so that no draw moves the value",
}
EXAMPLES = [
    Example(inputs=maps, skip={**MASKED, **GENERATED}),
    Example(name="aligned", inputs=wider, params={"mask_ratio": 0.0, "reduction": "mean"}),
]
