"""The common part of criteria that keep one score per weight or block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdcore.pruning import Blocks, Buffers


class Remembering:
    """Keeps scores by the name of the weight, in float32 or in the weight's own dtype, as the group says."""

    needs_gradients: ClassVar[bool] = True

    def __init__(self) -> None:
        self.scores = Buffers()

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the scores; None is that of the weights."""
        return self.scores.dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype | None) -> None:
        self.scores.dtype = dtype

    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        """Return the score kept for the weight."""
        return self.scores[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the scores by the weight's name."""
        return {"scores": self.scores.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved scores."""
        self.scores.load_state_dict(state["scores"])


def sensitivity(weight: Tensor, gradient: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return `W G` elementwise, in the more precise of the weight's dtype and `dtype`."""
    if dtype is not None and weight.dtype is not dtype:
        weight = weight.to(torch.promote_types(weight.dtype, dtype))
    return weight * gradient
