"""Examples on which the conformance checks run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kdcore.testing import Example


def labelled(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and labels."""
    made = {name: torch.randn(batch, 5, generator=generator) for name in ("student", "teacher")}
    return {**made, "target": torch.randint(5, (batch,), generator=generator)}


def tokens(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and labels of several positions."""
    made = {name: torch.randn(batch, 3, 5, generator=generator) for name in ("student", "teacher")}
    return {**made, "target": torch.randint(5, (batch, 3), generator=generator)}


def right(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return a student equal to a teacher whose labels lead far enough to be left as they are."""
    made = labelled(generator, batch)
    leading = made["teacher"] / 2 + 5 * F.one_hot(made["target"], 5)
    return {**made, "student": leading, "teacher": leading.clone()}


def right_tokens(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return the same of several positions, for a temperature of 2."""
    made = right(generator, 3 * batch)
    doubled = {name: 2 * each if name != "target" else each for name, each in made.items()}
    return {name: each.reshape(batch, 3, *each.shape[1:]) for name, each in doubled.items()}


EXAMPLES = [
    Example(inputs=labelled, equal=right, params={"threshold": 0.2}),
    Example(name="tokens", inputs=tokens, equal=right_tokens, params={"threshold": 0.7, "temperature": 2}),
]
