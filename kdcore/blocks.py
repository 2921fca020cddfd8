"""Batches in blocks of samples, for losses that work sample by sample and make their gradient with their value."""

from __future__ import annotations

from torch import Tensor

# Of the largest tensor of a block. A few of this size stay in a processor's cache, and what malloc gives for them is
# used again by the next block instead of going back to the system. Half as much costs the same, twice as much up to a
# fifth more.
BLOCK_BYTES = 2**20


def sample_blocks(batch: Tensor, numbers: int) -> list[slice]:
    """Return slices that part the samples of `batch`, (B, ...), into blocks of at most 1 MiB, or of one.

    On accelerators it is one, the whole batch: there each operation costs its launch.

    Arguments:
        batch: says how many samples there are, their dtype and device.
        numbers: how many numbers the largest tensor made for one sample has.
    """
    samples = max(len(batch), 1)
    size = samples
    if batch.device.type == "cpu":
        size = max(1, min(samples, BLOCK_BYTES // max(1, numbers * batch.element_size())))
    return [slice(start, start + size) for start in range(0, samples, size)]
