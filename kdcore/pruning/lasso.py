"""Group lasso: a penalty that pulls whole blocks towards zero."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kdcore.pruning.layers import PrunedLayer


@torch.no_grad()
def add_group_lasso(layers: Iterable[PrunedLayer], coefficient: float) -> None:
    """Add to each gradient that of the penalty `coefficient * sum_b ||W_b||`, the Euclidean norms of the blocks.

    The gradient is `coefficient * W / ||W_b||`, and 0 for a block that is 0.

    Yuan and Lin: Model Selection and Estimation in Regression with Grouped Variables, 2006, equation 2.1, with one
    coefficient for blocks of every size. Neural Compressor divides by the norm of the *gradient's* block, and takes the
    result off the weight itself, whatever the learning rate.
    """
    for layer in layers:
        norms = sum(part.blocks.sum(part.parameter.detach().square()) for part in layer.parts).sqrt()  # type: ignore[union-attr]
        scale = torch.where(norms > 0, coefficient / norms, 0)
        for part in layer.parts:
            parameter = part.parameter
            if parameter.grad is not None:
                parameter.grad.addcmul_(parameter.detach(), part.blocks.expand(scale).to(parameter.dtype))
