"""Examples on which the conformance checks run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from kdcore.component import Input, Role
from kdcore.testing import Example

CLASSES = 5
SIZE = 4
IGNORED = -100


class Labelled(nn.Module):
    """Cross entropy of positions as (sum, count)."""

    def forward(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum over all labels that are not ignored, and their number."""
        rows = input.flatten(0, -2).to(torch.promote_types(input.dtype, torch.float32))
        total = F.cross_entropy(rows, target.flatten(), reduction="sum", ignore_index=IGNORED)
        return total, self.count(target)

    def count(self, target: Tensor) -> Tensor:
        """Return how many labels count."""
        return (target != IGNORED).sum()


@dataclass(frozen=True)
class LabelledFactory:
    """Makes `Labelled` as the core makes the loss of a wrapper."""

    inputs: tuple[Input, ...] = (
        Input("input", role=Role.POSITIONS, default="student", help="logits (B, T, C)"),
        Input("target", role=Role.LABELS, default="batch:target", help="class indices (B, T)"),
    )

    def __call__(self) -> nn.Module:
        """Make a loss."""
        return Labelled()


def tensors(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return features of positions."""
    return {name: torch.randn(batch, SIZE, CLASSES, generator=generator) for name in ("student", "teacher")}


def masked(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return features and a mask that keeps as many positions of each row."""
    return {**tensors(generator, batch), "mask": torch.tensor([True, False, True, True]).repeat(batch, 1)}


def labelled(generator: Generator, batch: int) -> dict[str, Tensor]:
    """Return logits and labels, of which one per row does not count, and in some rows two."""
    target = torch.randint(CLASSES, (batch, SIZE), generator=generator)
    target[:, 1] = IGNORED
    target[::3, 2] = IGNORED
    return {"input": torch.randn(batch, SIZE, CLASSES, generator=generator), "target": target}


def dicts(generator: Generator, batch: int) -> dict[str, Any]:
    """Return features of two layers by name."""
    return {name: {key: tensors(generator, batch)[name] for key in ("out", "aux")} for name in ("student", "teacher")}


def lists(generator: Generator, batch: int) -> dict[str, Any]:
    """Return features of two layers."""
    return {name: list(layers.values()) for name, layers in dicts(generator, batch).items()}


EXAMPLES = {
    "simple": [Example(inputs=tensors), Example(name="counted", inputs=labelled, wraps=LabelledFactory())],
    "dict": [Example(inputs=dicts, params={"weights": {"out": 1.0, "aux": 0.4}})],
    "pairs": [
        Example(inputs=lists),
        Example(name="weighted", inputs=lists, params={"weights": [1.0, 0.5], "reduction": "mean"}),
    ],
    "masked": [
        Example(inputs=masked),
        Example(name="labels", inputs=labelled, params={"ignore_index": IGNORED}, wraps=LabelledFactory()),
    ],
    "causal": [Example(inputs=tensors), Example(name="counted", inputs=labelled, wraps=LabelledFactory())],
}
