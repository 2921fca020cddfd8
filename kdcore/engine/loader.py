"""A loader whose order depends on seed and epoch only, so that an epoch can be taken up anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from kdcore.config.config import DataConfig
from kdcore.engine.collate import Collate
from kdcore.engine.part import PartBatch
from kdcore.engine.sampler import EpochSampler, OwnBatches, Parts
from kdcore.engine.samples import IndexedDataset, Sample
from kdcore.engine.workers import dismiss, leave_signals, mortal, signals_held
from kdcore.errors import DataError, KdcoreError
from kdcore.pipeline.diagnosis import DEAD_WORKER, reason
from kdcore.pipeline.randomness import derive_seed

Waiting = Callable[[], contextlib.AbstractContextManager[None]]


class Loader:
    """Batches of one data set, epoch by epoch.

    Arguments:
        config: how it is loaded.
        dataset: what is loaded.
        seed: of the run.
        stage: the name of the stage; its order and randomness are its own.
        rank: which of the processes that share each batch this one is.
        count: how many these are; each takes `batch_size` samples.
        waiting: entered while worker processes are waited for, where nothing is lost if it raises.
    """

    def __init__(
        self,
        config: DataConfig,
        dataset: Any,
        seed: int,
        *,
        stage: str,
        rank: int = 0,
        count: int = 1,
        waiting: Waiting = contextlib.nullcontext,
    ) -> None:
        self.config = config
        size = config.batch_size * count
        self.dataset = dataset
        self.rows_per_sample = int(getattr(self.dataset, "rows_per_sample", 1))
        self._indexed = IndexedDataset(self.dataset, config.name, derive_seed(seed, "samples", stage))
        try:
            self._sampler = _make_sampler(config, self.dataset, derive_seed(seed, "data", stage), size)
        except KdcoreError as error:
            raise error.at(config.place) from error
        self._size = size
        self._parts = Parts(self._sampler, size, config.drop_last, rank, count) if count > 1 else None
        self._generator = torch.Generator()
        workers = config.num_workers
        # What this process reads itself it reads to the end: its random generators are in use.
        self._waiting = waiting if workers else contextlib.nullcontext
        self._persistent = config.persistent_workers and workers > 0
        self._begun = False
        self._collate = Collate(self._indexed)
        self._loader: DataLoader[Any] = DataLoader(
            self._indexed,
            **_ordered_by(config, self._sampler if self._parts is None else self._parts),
            num_workers=workers,
            pin_memory=config.pin_memory,
            collate_fn=self._collate,
            prefetch_factor=config.prefetch_factor if workers else None,
            persistent_workers=self._persistent,
            generator=self._generator,
            worker_init_fn=leave_signals if workers else None,
        )
        if len(self._loader) == 0:
            raise DataError(
                f"data {config.name!r} has {len(self.dataset)} samples, fewer than batch_size {config.batch_size}"
                + (f" in each of {count} processes" if count > 1 else "")
                + ", and drop_last leaves that batch out",
                place=config.place,
                repair="lower batch_size or write drop_last: false",
            )

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Sample]:
        """Return the batches of an epoch, all but the first `skip`, which are not even read.

        The workers start now; nothing here draws from the global generators.
        """
        self._sampler.epoch = epoch
        self._sampler.skip = skip if isinstance(self._sampler, OwnBatches) else skip * self._size
        if self._parts is not None:
            self._parts.sizes.clear()
        self._indexed.epoch[0] = epoch
        # The loader draws its workers' base seed from here, so the global generator is left alone.
        self._generator.manual_seed(derive_seed(self._indexed.seed, "workers", epoch))
        # Workers that outlive an epoch are waited for until they have ended it.
        starting = self._waiting if self._begun or not self.config.num_workers else signals_held
        try:
            with starting():
                batches = mortal(iter(self._loader))
        except Exception as error:  # a worker may fail to start in any way; the cause is chained and named
            raise self._unreadable(error) from error
        self._begun = self._persistent
        return self._batches(batches)

    def _batches(self, batches: Iterator[Any]) -> Iterator[Sample]:
        while True:
            try:
                with self._waiting():
                    batch = next(batches)
            except StopIteration:
                return
            except Exception as error:  # a worker may end in any way; the cause is chained and named
                dismiss(batches)
                raise self._unreadable(error) from error
            # Samplers run in this process, ahead of the workers and in the same order.
            sizes = self._parts.sizes.popleft() if self._parts is not None else None
            yield self._sound(batch) if sizes is None else PartBatch.of(self._sound(batch), *sizes)

    def _unreadable(self, error: Exception) -> DataError:
        repair = "num_workers: 0 shows whether it is the worker processes that fail"
        if DEAD_WORKER in str(error):
            repair = "if it was killed, then often for want of memory: lower num_workers or prefetch_factor; " + repair
        what = f"data {self.config.name!r} cannot be read: {reason(error)}"
        return DataError(what, place=self.config.place, repair=repair)

    def first_batch(self) -> Sample:
        """Return the first batch of epoch 0, read in this process."""
        self._sampler.epoch = self._sampler.skip = 0
        self._indexed.epoch[0] = 0
        if isinstance(self._sampler, OwnBatches):
            indices = next(iter(self._sampler))
        else:
            indices = [index for index, _ in zip(self._sampler, range(self.config.batch_size), strict=False)]
        return self._sound(self._collate(self._indexed.__getitems__(indices)))

    @property
    def left_over(self) -> int:
        """The fewest samples that a process has in an epoch's last batch, if that is a shorter one; else 0."""
        if isinstance(self._sampler, OwnBatches) or self.config.drop_last:
            return 0
        count = self._size // self.config.batch_size
        left = len(self._sampler) % self._size
        return max(left // count, 1) if left else 0

    def draw(self, indices: list[int], epoch: int = 0) -> Sample:
        """Return a batch of these samples as they are in `epoch`, read in this process."""
        # Not the loader's own, whose workers may be reading ahead in another epoch.
        indexed = IndexedDataset(self.dataset, self.config.name, self._indexed.seed)
        indexed.epoch[0] = epoch
        return self._sound(Collate(indexed)(indexed.__getitems__(indices)))

    def _sound(self, batch: Sample | KdcoreError) -> Sample:
        if isinstance(batch, KdcoreError):
            raise batch.at(self.config.place) from batch
        return batch


def _make_sampler(config: DataConfig, dataset: Any, seed: int, size: int) -> EpochSampler | OwnBatches:
    if getattr(dataset, "batches", None) is None:
        return EpochSampler(config.sampler, len(dataset), seed, getattr(dataset, "targets", None))
    if config.sampler != "sequential" or config.drop_last:
        raise DataError(
            f"data {config.name!r} chooses its batches itself, so nothing else can",
            repair="remove shuffle, sampler and drop_last",
        )
    return OwnBatches(dataset, size, seed)


def _ordered_by(config: DataConfig, sampler: EpochSampler | OwnBatches | Parts) -> dict[str, Any]:
    if not isinstance(sampler, EpochSampler):
        return {"batch_sampler": sampler}
    return {"batch_size": config.batch_size, "sampler": sampler, "drop_last": config.drop_last}
