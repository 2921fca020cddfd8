"""Connection sensitivity over many steps."""

from __future__ import annotations

from torch import Tensor

from kd_plugin_pruning.remembering import Remembering, sensitivity
from kdcore.pruning import Blocks


class SnipMomentumCriterion(Remembering):
    """Weights that have mattered little to the loss over the steps so far matter least.

    `S <- alpha S + beta |W G|`, from S = 0, in every step from the first to the last masks.

    The sensitivity of Lee, Ajanthan, Torr: SNIP, 2019, equation 6; the sum over steps is Neural Compressor's
    `snip_momentum`, whose documentation prints the two coefficients the other way round.

    Arguments:
        alpha: what is left of older sensitivities at each step, in [0, 1].
        beta: the weight of the newest, above 0.
    """

    def __init__(self, alpha: float = 0.9, beta: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Add a step's sensitivities."""
        score = self.scores.zeros(name, weight.shape, weight)
        score.mul_(self.alpha).add_(sensitivity(weight, gradient, self.dtype).abs_(), alpha=self.beta)
