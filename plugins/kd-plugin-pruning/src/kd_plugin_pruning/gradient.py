"""The absolute value of the gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kd_plugin_pruning.remembering import Remembering
from kdcore.pruning import Blocks


class GradientCriterion(Remembering):
    """Weights that the loss hardly depends on matter least.

    `score = |G|` with G the gradient in the step that makes the masks.

    Neural Compressor's `gradient`.
    """

    accumulates: ClassVar[bool] = False

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Keep the absolute gradient."""
        self.scores[name] = gradient.abs()
