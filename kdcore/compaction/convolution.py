"""Convolutions in groups: each group keeps as many inputs and outputs as the others that stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.compaction.kept import Kept
from kdcore.compaction.program import Slot


@dataclass
class Grouped:
    """One convolution with several groups.

    `x` is its input with the channels at `dim`; `weight` (out, in / groups, ...) its parameter, of value `values`.
    """

    x: Slot
    dim: int
    weight: Slot
    groups: int
    values: Tensor

    def couple(self, kept: Kept, nonzero: Tensor, *, runs: bool) -> None:
        """Keep the inputs that kept outputs need; a group goes only as a whole, inputs and outputs."""
        outputs, inputs = self._by_group(kept.of(self.weight)[0]), self._by_group(kept.of(self.x)[self.dim])
        if runs:
            used = (self.values != 0).flatten(2).any(2).view(self.groups, -1, self.values.shape[1])
            needed = (used & outputs[:, :, None]).any(1) & nonzero.view(self.groups, -1)
            kept.keep(self.x, self.dim, needed.flatten())
            kept.keep(self.weight, 1)
        live = outputs.any(1) | inputs.any(1)
        # One of each, where only the other side is needed.
        for lanes, slot, dim in ((inputs, self.x, self.dim), (outputs, self.weight, 0)):
            first = torch.zeros_like(lanes)
            first[live & ~lanes.any(1), 0] = True
            kept.keep(slot, dim, first.flatten())

    def even_out(self, kept: Kept) -> None:
        """Keep so many more that every group that stays has the same number of inputs, and of outputs."""
        for slot, dim in ((self.x, self.dim), (self.weight, 0)):
            lanes = self._by_group(kept.of(slot)[dim]).clone()
            count = int(lanes.sum(1).max())
            for group in lanes:
                held = int(group.sum())
                if 0 < held < count:
                    group[torch.nonzero(~group).flatten()[: count - held]] = True
            kept.keep(slot, dim, lanes.flatten())

    def changed(self, kept: Kept) -> bool:
        """Whether an input or an output goes."""
        return not (kept.of(self.weight)[0].all() and kept.of(self.x)[self.dim].all())

    def cut(self, kept: Kept) -> tuple[Tensor, int]:
        """Return the smaller weight, and the number of groups."""
        outputs, inputs = self._by_group(kept.of(self.weight)[0]), self._by_group(kept.of(self.x)[self.dim])
        by_group = self.values.view(self.groups, -1, *self.values.shape[1:])
        live = [group for group in range(self.groups) if outputs[group].any()]
        parts = [by_group[group][outputs[group]][:, inputs[group]] for group in live]
        return torch.cat(parts), len(live)

    def _by_group(self, lanes: Tensor) -> Tensor:
        return lanes.view(self.groups, -1)
