"""The cache of one frozen model on one data set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcore.address import Address
from kdcore.config.config import CacheConfig
from kdcore.engine.cache.entry import Entry
from kdcore.engine.disk import FORBIDDEN
from kdcore.engine.lock import in_turn
from kdcore.errors import RunError


class Store:
    """What is stored for `addresses`, by sample; the pipeline's Cache."""

    def __init__(
        self,
        folder: Path,
        addresses: Iterable[Address],
        config: CacheConfig,
        *,
        samples: int,
        rows_per_sample: int,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.config = config
        self.device = device
        self.samples = samples
        self.entries = {
            address: Entry(
                folder,
                address,
                samples=samples,
                rows=rows_per_sample,
                dtype=config.dtype,
                top_k=top_k_of(config, address),
                tell=tell,
            )
            for address in addresses
        }

    @property
    def marked(self) -> int:
        """How many samples are there, of the address that has the fewest."""
        with self._reported():
            return min((entry.marked for entry in self.entries.values()), default=0)

    @property
    def nbytes(self) -> int:
        """The length of all files."""
        return sum(entry.nbytes for entry in self.entries.values())

    def complete(self) -> bool:
        """Whether every sample is there and whole."""
        with self._reported():
            return all(entry.has(np.arange(self.samples)) for entry in self.entries.values())

    def read(self, index: Tensor) -> Mapping[Address, Tensor] | None:
        """Return the stored rows of these samples by address, None unless all are there."""
        indices = index.numpy()
        with self._reported():
            if not all(entry.has(indices) for entry in self.entries.values()):
                return None
        return {address: entry.read(indices, self.device) for address, entry in self.entries.items()}

    def store(self, index: Tensor, values: Mapping[Address, Tensor]) -> Mapping[Address, Tensor]:
        """Store what is missing of these samples, and return the rows of all of them as they are stored."""
        indices = index.numpy()
        with self._reported(), in_turn(self.folder):
            for address, entry in self.entries.items():
                entry.add(indices, values[address])
        stored = self.read(index)
        if stored is None:
            raise RunError(
                f"what was just written to the cache in {str(self.folder)!r} cannot be read back",
                place=self.config.place,
                repair="does something else write to this folder? choose another folder, on a local disk",
            )
        return stored

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Say what a full disk or a folder out of reach means; what was written stays of use."""
        try:
            yield
        except OSError as error:
            file = f" ({error.filename})" if error.filename else ""
            remedy = "let this user read and write it (reading is enough once it is complete)"
            raise RunError(
                f"the cache in {str(self.folder)!r} cannot be used: {error.strerror or error}{file}",
                place=self.config.place,
                repair=f"{remedy if error.errno in FORBIDDEN else 'make room'}, choose another folder, or write cache: "
                "false; what was written stays of use",
            ) from error


def top_k_of(config: CacheConfig, address: Address) -> int:
    """Return how many values of the last dimension are kept: `top_k` is about logits, which a model's name means."""
    return config.top_k if address == Address(address.name) else 0
