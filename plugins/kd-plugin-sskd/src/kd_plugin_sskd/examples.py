"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from kdcore.testing import Example

CLASSES, DIM = 5, 6


def rows(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and embeddings of images and their rotations."""
    sizes = {"student": CLASSES, "teacher": CLASSES, "student_embedding": DIM, "teacher_embedding": DIM}
    made = {name: torch.randn(4 * batch, size, generator=generator) for name, size in sizes.items()}
    return {**made, "target": torch.randint(CLASSES, (batch,), generator=generator)}


def embedding(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return embeddings of images and their rotations."""
    return {"embedding": torch.randn(4 * batch, DIM, generator=generator)}


def features(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return feature maps."""
    return {"x": torch.randn(batch, 3, 2, 2, generator=generator)}


LABELS = dict.fromkeys(("equal_value", "equal_gradient"), "the labels are learnt too")
ALL = {"halves": "a rotated image is compared with all images of the batch"}
RANKS = {"batch_order": "of rows that rank the truth alike the first ones are kept"}
EXAMPLES = {
    "sskd": [
        Example(inputs=rows, rows_per_sample=4, skip={**ALL, **LABELS, **RANKS}),
        Example(name="all", inputs=rows, params={"ss_ratio": 1}, rows_per_sample=4, skip={**ALL, **LABELS}),
    ],
    "sskd_auxiliary": [Example(inputs=embedding, rows_per_sample=4, skip=ALL)],
    "sskd_head": [Example(inputs=features)],
    "rotated": [Example(params={"dataset": {"type": "digits", "params": {"samples_per_class": 2}}})],
}
