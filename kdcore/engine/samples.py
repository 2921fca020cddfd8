"""Samples that know their index, and whose randomness depends on seed, epoch and index only."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from kdcore.engine.plugin_files import LoadedPluginFiles
from kdcore.errors import DataError, KdcoreError
from kdcore.pipeline.randomness import derive_seed, kept_generators, seed_generators

Sample = dict[str, Any]


class IndexedDataset(Dataset[tuple[int, Sample | KdcoreError]]):
    """A data set whose samples carry their index and draw their randomness from (seed, epoch, index).

    An error takes the place of its sample: raised in a worker, torch would make one text of it and its traceback.

    A data set says with `random = False` that its samples never depend on random numbers, which
    saves the seeding; one that says nothing is seeded.
    """

    def __init__(self, dataset: Any, name: str, seed: int) -> None:
        self.dataset = dataset
        self.name = name
        self.seed = seed
        # Nothing but False is that promise: a generator or None of this name is the data set's own affair.
        self.random = getattr(dataset, "random", True) is not False
        # Shared memory, so that workers that outlive an epoch see the next one's number.
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        # First, since the data set may be of a plugin file's class, which a worker that is not forked does not know.
        return {"plugin_files": LoadedPluginFiles(), **self.__dict__}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Sample | KdcoreError]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, Sample | KdcoreError]]:
        """Return the samples of a batch."""
        if not self.random:
            return [(index, self._sample_or_error(index)) for index in indices]
        samples = []
        epoch = int(self.epoch)
        with kept_generators():
            for index in indices:
                seed_generators(derive_seed(self.seed, self.name, epoch, index))
                samples.append((index, self._sample_or_error(index)))
        return samples

    def _sample_or_error(self, index: int) -> Sample | KdcoreError:
        try:
            return self._sample(index)
        except KdcoreError as error:
            return portable(error)

    def _sample(self, index: int) -> Sample:
        try:
            sample = self.dataset[index]
        except KdcoreError:
            raise
        except Exception as error:  # a data set may fail in any way; the cause is chained and named
            raise DataError(f"data {self.name!r}: sample {index} failed: {type(error).__name__}: {error}") from error
        if not isinstance(sample, dict):
            raise DataError(
                f"data {self.name!r}: sample {index} is a {type(sample).__name__}, not a dict",
                repair='a data set yields dicts such as {"input": x, "target": y}',
            )
        return sample


def portable(error: KdcoreError) -> KdcoreError:
    """Write the traceback into an error that leaves a worker process, where it would be lost."""
    if get_worker_info() is not None:
        error.add_note("".join(traceback.format_exception(error)))
    return error
