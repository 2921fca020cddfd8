"""Draws negatives for each sample, uniformly and without replacement.

Eligible samples are numbered 0, 1, ... without those that are left out; such numbers are drawn, then turned into
sample indices. A class is one interval of the samples sorted by class, so leaving it out is an addition, and
nothing of the size classes x samples is ever made.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Up to so many times more numbers than are drawn, permuting all is cheaper than drawing until all differ.
PERMUTED = 8


class Negatives(nn.Module):
    """Where the negatives of a training set come from.

    Arguments:
        num_samples: N.
        targets: labels (N,), to leave out a sample's class; without them only the sample itself is.

    Its buffers follow from the training set, so they are moved with the loss and not saved.
    """

    order: Tensor | None
    starts: Tensor | None
    labels: Tensor | None

    def __init__(self, num_samples: int, targets: Tensor | None = None) -> None:
        super().__init__()
        self.num_samples = num_samples
        order, starts = None, None
        self.fewest = self.most = num_samples - 1
        if targets is not None:
            counts = torch.bincount(targets)
            order = targets.argsort(stable=True)
            starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            present = counts[counts > 0]
            self.fewest = num_samples - int(present.max())
            self.most = num_samples - int(present.min())
            self.largest_class = int(counts.argmax())
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("labels", targets, persistent=False)

    @property
    def num_classes(self) -> int:
        """How many classes there are, counting to the highest label; 0 without labels."""
        return 0 if self.starts is None else len(self.starts) - 1

    def draw(self, index: Tensor, count: int, target: Tensor | None = None, scratch: Tensor | None = None) -> Tensor:
        """Return indices (B, count) of other samples than `index` (B,), of other classes where labels are known.

        Arguments:
            scratch: what `scratch(count)` returned, for those who call often with few samples on a CPU.
        """
        start, left_out = self._interval(index, target)
        if index.device.type == "cpu":
            return self._draw_row_by_row(start, left_out, count, self.scratch(count) if scratch is None else scratch)
        numbers = draw_together(self.num_samples - left_out, count, self.fewest, self.most)
        numbers = numbers + left_out.unsqueeze(1) * (numbers >= start.unsqueeze(1))
        return numbers if self.order is None else self.order[numbers]

    def draw_positive(self, index: int) -> int:
        """Return a sample of the class of sample `index`, itself among them."""
        assert self.order is not None
        start, length = (int(each) for each in self._interval(torch.tensor([index]), None))
        return int(self.order[start + int(torch.randint(length, ()))])

    def scratch(self, count: int) -> Tensor | None:
        """Return the space in which `count` numbers of a row are told apart, None where none is needed."""
        return torch.empty(self.most, dtype=torch.int32) if self.most > PERMUTED * count else None

    def _interval(self, index: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return where the samples that are left out begin, and how many they are."""
        if self.starts is None or self.labels is None:
            return index, torch.ones_like(index)
        target = self.labels[index] if target is None else target
        start = self.starts[target]
        return start, self.starts[target + 1] - start

    def _draw_row_by_row(self, start: Tensor, left_out: Tensor, count: int, scratch: Tensor | None) -> Tensor:
        drawn = start.new_empty(len(start), count)
        for row, first, length in zip(drawn, start.tolist(), left_out.tolist(), strict=True):
            numbers = draw_row(self.num_samples - length, count, scratch)
            numbers += (numbers >= first) * length
            row.copy_(numbers if self.order is None else self.order.index_select(0, numbers))
        return drawn


def draw_row(size: int, count: int, scratch: Tensor | None = None) -> Tensor:
    """Return `count` different numbers below `size`, every set of them as likely.

    More are drawn than needed. Each writes its place where the scratch space has its number, and is kept if its place
    still stands there: of equal numbers, one. Nothing in this tells one number from another, so no set is preferred.

    Arguments:
        scratch: space for at least `size` whole numbers, whatever they are; without it, all numbers are permuted.
    """
    if scratch is None or size <= PERMUTED * count:
        return torch.randperm(size)[:count]
    repeats = count * count / (2 * size)
    places = torch.arange(count + math.ceil(1.2 * repeats + 6 * math.sqrt(repeats) + 8), dtype=scratch.dtype)
    while True:  # once, but for less than one in a million
        numbers = torch.randint(size, (len(places),))
        scratch.scatter_(0, numbers, places)
        different = numbers[scratch.index_select(0, numbers) == places]
        if len(different) >= count:
            return different[:count]


def draw_together(sizes: Tensor, count: int, fewest: int, most: int) -> Tensor:
    """Draw numbers below each of `sizes` (B,) for all rows at once, without waiting for the device.

    Either every number gets a random key and the smallest keys win, or more numbers are drawn than needed and repeated
    ones are passed over; that more than needed do not suffice has a probability below 1e-15 a row, and the
    row then ends with repetitions. `fewest` and `most` bound the sizes, which the device keeps to itself.
    """
    if fewest < PERMUTED * count:
        keys = torch.rand(len(sizes), most, device=sizes.device)
        keys.masked_fill_(torch.arange(most, device=sizes.device) >= sizes.unsqueeze(1), 2.0)
        return keys.argsort(1)[:, :count]
    repeats = count * count / fewest  # twice what is to be expected
    drawn = count + math.ceil(repeats + 10 * math.sqrt(repeats) + 30)
    uniform = torch.rand(len(sizes), drawn, device=sizes.device, dtype=torch.float64)
    numbers = (uniform * sizes.unsqueeze(1)).long()
    ordered, places = numbers.sort(dim=1, stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    repeated = torch.empty_like(new).scatter_(1, places, ~new)
    return numbers.gather(1, repeated.to(torch.int8).argsort(dim=1, stable=True)[:, :count])
