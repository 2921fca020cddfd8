"""The data sets of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from kdcore.config.config import DataConfig
from kdcore.engine.loader import Loader, Waiting
from kdcore.errors import DataError, KdcoreError
from kdcore.pipeline.diagnosis import reason


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
    _check_names(dataset, config)
    if length == 0:
        raise DataError(
            f"data {config.name!r} is empty: it has 0 samples", place=config.place, repair="check its params"
        )
    return dataset


def _check_names(dataset: Any, config: DataConfig) -> None:
    """Raise DataError for an attribute of a data set that has another meaning than the one that it would be given."""
    for name, meaning in {"collate": "makes a batch of samples", "batches": "chooses the samples of batches"}.items():
        found = getattr(dataset, name, None)
        if found is not None and not callable(found):
            raise DataError(
                f"{config.part.registered} has an attribute {name!r} of type {type(found).__name__}; that name is "
                f"taken, for a method that {meaning}",
                place=config.place,
                repair="give it another name",
            )
    rows = getattr(dataset, "rows_per_sample", 1)
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise DataError(
            f"{config.part.registered} has rows_per_sample {rows!r}; that is how many rows a batch holds for each "
            "sample, a whole number from 1 on",
            place=config.place,
            repair="set such a number, or give the attribute another name",
        )
