"""A random order."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdcore.pruning import Blocks


class RandomCriterion:
    """Every block matters as much as any other: what other criteria are compared with.

    `score ~ U(0, 1)` for each block, fixed by seed and name of the weight, so that what one pruning took a later,
    sparser one takes too.

    Arguments:
        seed: another seed, another order.
    """

    needs_gradients = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        """Return a random number for each block, for each weight where the pattern looks into its blocks."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}".encode()))
        shape = blocks.weight_shape if blocks.needs_elements else blocks.shape
        return torch.rand(shape, generator=generator).to(weight.device)

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: seed and names tell all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take an empty state."""
