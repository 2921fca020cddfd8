"""The Fisher information of block masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from kd_plugin_pruning.remembering import Remembering, sensitivity
from kdcore.pruning import Blocks, Buffers

# The information between blocks is a matrix over them: 1 GiB in float32 for so many.
_MOST_BLOCKS = 1 << 14


class RetrainFreeCriterion(Remembering):
    """Blocks without which the loss would grow least, to second order, matter least.

    `S_b <- S_b + (dL/dm_b)^2` with `dL/dm_b = sum_(i in b) W_i G_i`, the derivative by a mask of ones over the blocks:
    the diagonal of the empirical Fisher information I, over the batches so far. With `rearrange`, the blocks of a layer
    are then exchanged, one at a time and as many as before, while that lowers `(1 - m)^T I (1 - m)` with the layer's
    whole matrix I.

    Kwon, Kim, Mahoney, Hassoun, Keutzer, Gholami: A Fast Post-Training Pruning Framework for Transformers, 2022,
    equation 6 (search) and equation 8 (rearrangement). Gradients are those of batches, as in their code, not of single
    samples. Their third step, masks other than 0 and 1 by least squares, is left out: training does its work here.

    Arguments:
        rearrange: whether to look at pairs of blocks too; keeps a matrix over each layer's blocks.

    Raises:
        ValueError: with `rearrange`, a layer has more than 16384 blocks.
    """

    per_block: ClassVar[bool] = True

    def __init__(self, rearrange: bool = False) -> None:
        super().__init__()
        self.pairs = Buffers() if rearrange else None

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        """Add a batch's information."""
        score = self.scores.zeros(name, blocks.shape, weight)
        slope = blocks.sum(sensitivity(weight, gradient, self.dtype))
        score.add_(slope.square())
        if self.pairs is not None:
            if blocks.count > _MOST_BLOCKS:
                raise ValueError(
                    f"rearrange keeps a matrix over the blocks of a layer, and {name} has {blocks.count}; use it with "
                    "filter, input_channel, head, 1xchannel or channelx1"
                )
            flat = slope.flatten().to(score.dtype)
            self.pairs.dtype = self.dtype
            self.pairs.zeros(name, (blocks.count, blocks.count), weight).addr_(flat, flat)

    def rearrange(self, name: str, kept: Tensor, blocks: Blocks) -> Tensor:
        """Return which blocks stay, as many as in `kept`."""
        if self.pairs is None:
            return kept
        gone = _rearranged(self.pairs[name].double().cpu(), int(torch.count_nonzero(~kept)))
        found = torch.ones(blocks.count, dtype=torch.bool)
        found[gone] = False
        return found.reshape(kept.shape).to(kept.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores, and the matrices if there are any."""
        state = super().state_dict()
        return state if self.pairs is None else {**state, "pairs": self.pairs.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved scores."""
        super().load_state_dict(state)
        if self.pairs is not None:
            self.pairs.load_state_dict(state["pairs"])


def _rearranged(information: Tensor, count: int) -> list[int]:
    """Return the blocks to prune: from the `count` lowest on, add each other one and take back the costliest."""
    own = information.diagonal()
    order = own.argsort(stable=True).tolist()
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[order[:count]] = True
    shared = information[:, chosen].sum(1)
    for new in order[count:] if count else []:
        chosen[new] = True
        shared += information[:, new]
        # Without block i the sum over all pairs falls by 2 shared_i - own_i.
        saved = (2 * shared - own).masked_fill(~chosen, -torch.inf)
        back = int(saved.argmax())
        chosen[back] = False
        shared -= information[:, back]
    found: list[int] = chosen.nonzero()[:, 0].tolist()
    return found
