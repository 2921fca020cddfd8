"""The rows and positions of one optimizer step: over all its batches, and all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import WiringError
from kdcore.pipeline.objective import Objective, Share
from kdcore.pipeline.term import nonzero

Number = Tensor | float
Sum = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StepCounts:
    """What the batches of one optimizer step amount to; from it follows each batch's share of the step.

        counts = StepCounts.of(objective, batches, across=accelerator.reduce)
        for batch in batches:
            objective(batch, counts.share(batch)).total.backward()

    The gradients then add up to those of one batch of all samples, also for terms over uneven numbers
    of positions, which are those that say `reduction: tokens`; any other counts rows. Across processes
    that takes gradients to be averaged, as DistributedDataParallel does.
    """

    rows: Number
    counts: Mapping[str, Number]
    processes: Number = 1

    @classmethod
    def of(cls, objective: Objective, batches: Sequence[Mapping[str, Any]], *, across: Sum | None = None) -> StepCounts:
        """Count the batches of a step before any forward pass.

        Arguments:
            objective: the Objective itself, not what distributed training wrapped around it.
            batches: all batches of the step that this process has.
            across: sums a tensor over all processes; every process calls it once per step.

        Raises:
            WiringError: it is not given the Objective itself, or a batch holds no tensor.
        """
        if not hasattr(objective, "count"):
            raise WiringError(
                f"StepCounts.of() was given a {type(objective).__name__}, which cannot count",
                repair="give it the objective itself, and call what accelerator.prepare() returned",
            )
        rows: Number = sum(batch_rows(batch) for batch in batches)
        counts = count_positions(objective, batches)
        processes: Number = 1
        if across is not None:
            device = next(objective.parameters()).device
            parts = [torch.as_tensor(each, dtype=torch.float32, device=device) for each in (1, rows, *counts.values())]
            processes, rows, *sums = across(torch.stack(parts)).unbind()
            counts = dict(zip(counts, sums, strict=True))
        return cls(rows, counts, processes)

    def share(self, batch: Mapping[str, Any]) -> Share:
        """Return the share of one batch, larger by the number of processes that gradients are averaged over."""
        return self.part(batch_rows(batch))

    def part(self, rows: Number) -> Share:
        """Return the share of a batch of so many rows."""
        return Share(rows * self.processes / self.rows, self._per_process)

    @cached_property
    def _per_process(self) -> dict[str, Number]:
        # Where nothing counts the sums are 0, and so is the mean; counts of weights may be below 1.
        return {name: nonzero(count) / self.processes for name, count in self.counts.items()}


def count_positions(
    objective: Objective, batches: Sequence[Mapping[str, Any]], present: Sequence[bool] | None = None
) -> dict[str, Number]:
    """Return what the terms over positions count in some batches; one that is not `present` counts 0 by each name."""
    counts: dict[str, Number] = {}
    for batch, here in zip(batches, present or [True] * len(batches), strict=True):
        for name, count in objective.count(batch).items():
            counts[name] = counts.get(name, 0) + (count if here else 0)
    return counts


def batch_rows(batch: Mapping[str, Any]) -> int:
    """Return how many rows a batch has: the first dimension of its first tensor that has one."""
    for value in batch.values():
        if isinstance(value, Tensor) and value.dim():
            return value.shape[0]
    raise WiringError(
        f"a batch with {', '.join(map(repr, batch)) or 'no entries'} holds no tensor, so nobody knows its rows",
        repair="let the collate function return tensors",
    )
