"""Connection sensitivity."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kd_plugin_pruning.remembering import Remembering, sensitivity
from kdcore.pruning import Blocks


class SnipCriterion(Remembering):
    """Weights whose removal would change the loss least, to first order, matter least.

    `score = |W G|` with G the gradient in the step that makes the masks.

    Lee, Ajanthan, Torr: SNIP: Single-shot Network Pruning based on Connection Sensitivity, 2019, equation 6, without
    the division by the sum over all weights, which changes no order. Neural Compressor's `snip`.
    """

    accumulates: ClassVar[bool] = False

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Keep the sensitivities."""
        self.scores[name] = sensitivity(weight, gradient, self.dtype).abs_()
