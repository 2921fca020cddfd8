"""The batches of one optimizer step, and what part of it each of them is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from kdcore.engine.part import counted
from kdcore.engine.processes import Processes
from kdcore.engine.samples import Sample
from kdcore.pipeline.objective import Objective, Share
from kdcore.pipeline.step_counts import StepCounts, count_positions

# Of a batch that stands in for one that this process has not: its weight in the step is 0.
ABSENT = Share(0.0)

# A batch that is a whole step has no share.
Part = tuple[Sample, Share | None]


def windows(batches: Iterator[Sample], size: int) -> Iterator[list[Any]]:
    """Yield the batches of one step after the other."""
    while window := list(itertools.islice(batches, size)):
        yield window


def parts_of(window: Sequence[Sample], objective: Objective, processes: Processes) -> list[Part]:
    """Say what part of the step each batch is, so that the parts add up to one batch of all of it."""
    if len(window) == processes.count == 1:
        return [(window[0], None)]
    sizes = [counted(batch) for batch in window]
    present = [rows > 0 for rows, _ in sizes]
    sums = processes.sum(count_positions(objective, window, present))
    step = StepCounts(sum(whole for _, whole in sizes), sums, processes.count)
    return [(batch, step.part(rows) if rows else ABSENT) for batch, (rows, _) in zip(window, sizes, strict=True)]
