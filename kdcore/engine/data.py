"""Data sets and loaders whose order depends on seed and epoch only, and a sample's randomness on its index too."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from kdcore.config.config import DataConfig
from kdcore.engine.part import PartBatch
from kdcore.engine.sampler import EpochSampler, OwnBatches, Parts
from kdcore.engine.workers import dismiss, leave_signals, mortal, signals_held
from kdcore.errors import DataError, KdcoreError
from kdcore.pipeline.diagnosis import DEAD_WORKER, describe, reason
from kdcore.pipeline.randomness import derive_seed, kept_generators, seed_generators

Sample = dict[str, Any]
Waiting = Callable[[], contextlib.AbstractContextManager[None]]

_SHOWN = 8


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
        self.random = bool(getattr(dataset, "random", True))
        # Shared memory, so that workers that outlive an epoch see the next one's number.
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

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
            return _portable(error)

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


class Collate:
    """Makes a batch of indexed samples; `batch["index"]` holds the indices.

    A data set's own collate draws its randomness from (seed, epoch, first index of the batch).
    """

    def __init__(self, indexed: IndexedDataset) -> None:
        self.indexed = indexed
        self.own = hasattr(indexed.dataset, "collate")
        self.collate: Callable[[list[Sample]], Any] = getattr(indexed.dataset, "collate", default_collate)
        self.name = indexed.name

    def __call__(self, indexed: Sequence[tuple[int, Sample | KdcoreError]]) -> Sample | KdcoreError:
        """Collate and add the indices; returns the error, if there is one."""
        samples = [sample for _, sample in indexed if not isinstance(sample, KdcoreError)]
        if len(samples) < len(indexed):
            return next(sample for _, sample in indexed if isinstance(sample, KdcoreError))
        indices = [index for index, _ in indexed]
        try:
            batch = self._collated(samples, indices[0])
        except Exception as error:  # a collate may fail in any way; the cause is chained and named
            failed = DataError(
                f"data {self.name!r}: samples {indices[:_SHOWN]} do not make a batch: {reason(error)}",
                repair="samples of one batch need the same keys and shapes, or the data set a collate(samples)",
            )
            failed.__cause__ = error
            return _portable(failed)
        if not isinstance(batch, Mapping):
            return DataError(
                f"data {self.name!r}: its collate made {describe(batch)} of samples {indices[:_SHOWN]}, not a dict",
                repair='a batch is a dict such as {"input": x, "target": y}',
            )
        return {**batch, "index": torch.tensor(indices)}

    def _collated(self, samples: list[Sample], first: int) -> Any:
        if not (self.own and self.indexed.random):
            return self.collate(samples)
        with kept_generators():
            seed_generators(derive_seed(self.indexed.seed, self.name, int(self.indexed.epoch), "collate", first))
            return self.collate(samples)


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


class Datasets:
    """The data sets of a run, each built once, on first use; process `rank` of `count` reads its part of each batch."""

    def __init__(
        self,
        configs: Mapping[str, DataConfig],
        rank: int = 0,
        count: int = 1,
        waiting: Waiting = contextlib.nullcontext,
    ) -> None:
        self._configs = configs
        self._options: dict[str, Any] = {"rank": rank, "count": count, "waiting": waiting}
        self._built: dict[str, Any] = {}

    def loader(self, name: str, seed: int, *, stage: str) -> Loader:
        """Return a loader of one data set for one stage."""
        return Loader(self._configs[name], self.dataset(name), seed, stage=stage, **self._options)

    def dataset(self, name: str) -> Any:
        """Return one data set."""
        if name not in self._built:
            self._built[name] = build_dataset(self._configs[name])
        return self._built[name]


def build_dataset(config: DataConfig) -> Any:
    """Build a data set; raises DataError if that fails or it is empty."""
    try:
        dataset = config.part.build()
    except KdcoreError as error:
        raise error.at(config.place) from error
    except Exception as error:  # a factory may fail in any way; the cause is chained and named
        raise DataError(
            f"{config.part.registered} could not be built: {type(error).__name__}: {error}", place=config.place
        ) from error
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"{config.part.registered} made a {type(dataset).__name__}, which is not a map-style data set",
            place=config.place,
            repair="give it __len__ and __getitem__",
        )
    try:
        length = len(dataset)
    except Exception as error:  # a data set may fail in any way; the cause is chained and named
        what = f"data {config.name!r} cannot say its length: {reason(error)}"
        raise DataError(what, place=config.place) from error
    if length == 0:
        raise DataError(
            f"data {config.name!r} is empty: it has 0 samples", place=config.place, repair="check its params"
        )
    return dataset


def _portable(error: KdcoreError) -> KdcoreError:
    """Write the traceback into an error that leaves a worker process, where it would be lost."""
    if get_worker_info() is not None:
        error.add_note("".join(traceback.format_exception(error)))
    return error


def _make_sampler(config: DataConfig, dataset: Any, seed: int, size: int) -> EpochSampler | OwnBatches:
    if not hasattr(dataset, "batches"):
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
