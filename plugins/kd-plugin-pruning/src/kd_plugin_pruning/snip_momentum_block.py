"""Sensitivity of whole blocks over many steps."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kd_plugin_pruning.remembering import Remembering, sensitivity
from kdcore.pruning import Blocks


class SnipMomentumBlockCriterion(Remembering):
    """Blocks whose removal as a whole would have changed the loss little matter least.

    `S_b <- alpha S_b + beta |dL/dm_b|` with `dL/dm_b = sum_(i in b) W_i G_i`, the derivative by a mask of ones over the
    blocks: what its weights do to the loss may cancel out within a block.

    Neural Compressor's `snip_momentum_block` (2.2), `block_mask` from 2.3 on. It replaces the forward pass of each
    layer to obtain the derivative; the sum above is the same number, and needs no change to the model.

    Arguments:
        alpha: what is left of older sensitivities at each step, in [0, 1].
        beta: the weight of the newest, above 0.
    """

    per_block: ClassVar[bool] = True

    def __init__(self, alpha: float = 0.9, beta: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Add a step's sensitivities."""
        score = self.scores.zeros(name, blocks.shape, weight)
        newest = blocks.sum(sensitivity(weight, gradient, self.dtype)).abs_()
        score.mul_(self.alpha).add_(newest, alpha=self.beta)
