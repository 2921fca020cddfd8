"""The absolute value of the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdcore.pruning import Blocks


class MagnitudeCriterion:
    """Small weights matter least.

    `score = |W|`

    Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks, 2015, section 3.1;
    there below a threshold per layer, here by rank. Neural Compressor's `magnitude` from 2.1 on (2.0 ranked the signed
    weight).
    """

    needs_gradients = False

    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        """Return the absolute values of `weight`."""
        return weight.abs()

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take an empty state."""
