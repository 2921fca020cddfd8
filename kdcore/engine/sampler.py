"""Which samples come in which order, as a function of (seed, epoch)."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from kdcore.errors import DataError
from kdcore.pipeline.diagnosis import reason
from kdcore.pipeline.randomness import derive_seed


class EpochSampler(Sampler[int]):
    """The order of samples as a function of (seed, epoch); the first `skip` are left out, as when resuming."""

    def __init__(self, kind: str, length: int, seed: int, targets: Any = None) -> None:
        self.kind = kind
        self.length = length
        self.seed = seed
        self.epoch = 0
        self.skip = 0
        self._weights = _class_weights(targets, length) if kind == "balanced" else None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        return iter(self._order(generator)[self.skip :].tolist())

    def _order(self, generator: torch.Generator) -> Tensor:
        if self.kind == "shuffle":
            return torch.randperm(self.length, generator=generator)
        if self.kind == "replacement":
            return torch.randint(self.length, (self.length,), generator=generator)
        if self._weights is not None:
            return torch.multinomial(self._weights, self.length, replacement=True, generator=generator)
        return torch.arange(self.length)


class OwnBatches(Sampler[list[int]]):
    """The batches that a data set chooses itself, by `batches(batch_size, generator)`.

    The generator is seeded by (seed, epoch); every epoch must have as many batches as the first. The first
    `skip` batches are left out, as when resuming.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.skip = 0
        self._length = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        for batch in itertools.islice(self.dataset.batches(self.batch_size, generator), self.skip, None):
            yield [int(index) for index in batch]


class Parts(Sampler[list[int]]):
    """One process's parts of the batches that all processes share.

    The batches are those of one process whose batch is `size`, in the same order. Each is cut into
    consecutive parts, as even as possible: the first processes take one sample more. A process for which
    nothing is left takes the whole batch, for show. `sizes` receives, batch by batch, how many samples
    count here and how many the batch has.
    """

    def __init__(self, order: EpochSampler | OwnBatches, size: int, drop_last: bool, rank: int, count: int) -> None:
        self.order = order
        self.size = size
        self.drop_last = drop_last
        self.rank = rank
        self.count = count
        self.sizes: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        if isinstance(self.order, OwnBatches):
            return len(self.order)
        whole, rest = divmod(len(self.order), self.size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches():
            each, more = divmod(len(batch), self.count)
            start = self.rank * each + min(self.rank, more)
            own = batch[start : start + each + (self.rank < more)]
            self.sizes.append((len(own), len(batch)))
            yield own or batch

    def _batches(self) -> Iterator[list[int]]:
        if isinstance(self.order, OwnBatches):
            yield from self.order
            return
        indices = iter(self.order)
        while batch := list(itertools.islice(indices, self.size)):
            if len(batch) == self.size or not self.drop_last:
                yield batch


def _class_weights(targets: Any, length: int) -> Tensor:
    try:
        labels = torch.as_tensor(targets)
        weights: Tensor = 1.0 / torch.bincount(labels).clamp(min=1).double()[labels]
    except (TypeError, ValueError, RuntimeError) as error:
        found = "it has none" if targets is None else reason(error)
        raise DataError(
            f"sampler: balanced needs a data set with targets, whole numbers from 0 by sample; {found}",
            repair="use sampler: shuffle",
        ) from error
    if len(weights) != length:
        what = f"sampler: balanced needs a target for each of {length} samples, found {len(weights)}"
        raise DataError(what, repair="use sampler: shuffle")
    return weights
