"""Batches of samples that know their index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from kdcore.engine.samples import IndexedDataset, Sample, portable
from kdcore.errors import DataError, KdcoreError
from kdcore.pipeline.diagnosis import describe, reason
from kdcore.pipeline.randomness import derive_seed, kept_generators, seed_generators

_SHOWN = 8


class Collate:
    """Makes a batch of indexed samples; `batch["index"]` holds the indices.

    A data set's own collate draws its randomness from (seed, epoch, first index of the batch).
    """

    def __init__(self, indexed: IndexedDataset) -> None:
        self.indexed = indexed
        own: Callable[[list[Sample]], Any] | None = getattr(indexed.dataset, "collate", None)
        self.own = own is not None
        self.collate = own or default_collate
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
            return portable(failed)
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
