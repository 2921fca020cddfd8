"""What a cache holds of one address."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.address import Address
from kdcore.engine.cache.codec import Codec
from kdcore.engine.cache.records import Indices, Records
from kdcore.engine.folder import write_atomically
from kdcore.engine.measure import show_bytes
from kdcore.errors import DataError, KdcoreError, RunError

_SLUG_LENGTH = 60


class Entry:
    """The records of one address, and the manifest that says how they are laid out.

    The layout is known when the first value is, so the files are made then, by whichever process
    comes first. A manifest is the last file to appear: without one there is nothing.
    """

    def __init__(
        self,
        folder: Path,
        address: Address,
        *,
        samples: int,
        rows: int,
        dtype: str,
        top_k: int,
        tell: Callable[[str], None],
    ) -> None:
        self.address = address
        self.path = folder / _file_name(address)
        self.samples = samples
        self.rows = rows
        self.dtype = dtype
        self.top_k = top_k
        self.codec: Codec | None = None
        self.records: Records | None = None
        self._tell = tell
        self._told_damage = 0

    @property
    def marked(self) -> int:
        """How many samples are there."""
        return self.records.marked() if self.records or self.open() else 0  # type: ignore[union-attr]

    @property
    def nbytes(self) -> int:
        """The length of the files."""
        return self.records.nbytes if self.records else 0

    def open(self) -> bool:
        """Take the files that are there; returns whether there are any."""
        codec = self._layout()
        if codec is not None:
            self._use(codec)
        return codec is not None

    def _layout(self) -> Codec | None:
        try:
            data = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
            codec = Codec.from_data(data)
            ours = (str(self.address), self.samples, self.rows) == (data["address"], data["samples"], codec.rows)
            return codec if ours else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            # Damaged, which whoever writes next finds out too and says.
            return None

    def has(self, indices: Indices) -> bool:
        """Whether all of these samples are there."""
        if self.records is None and not self.open():
            return False
        assert self.records is not None
        complete = bool(self.records.present(indices).all())
        if len(self.records.damaged) > self._told_damage:
            self._tell_damage(len(self.records.damaged))
        return complete

    def read(self, indices: Indices, device: torch.device) -> Tensor:
        """Return the rows of samples that are there."""
        assert self.records is not None
        assert self.codec is not None
        # From such memory the copy to the device does not hold up the host.
        lines = torch.empty(len(indices), self.records.size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self.records.read(indices, lines.numpy())
        return self.codec.decode(lines.to(device, non_blocking=True))

    def add(self, indices: Indices, value: Tensor) -> None:
        """Store what is missing of these samples; the caller holds the lock."""
        if self.records is None and not self.open():
            self._create(value)
        assert self.records is not None
        self._check(value)
        unique, first = np.unique(indices, return_index=True)
        missing = ~self.records.present(unique)
        if missing.any():
            self.records.write(unique[missing], self._encoded(value)[first[missing]])

    def _create(self, value: Tensor) -> None:
        codec = Codec.of(value, self.rows, self.dtype, self.top_k)
        self._clear_away()
        needed, free = self.samples * (codec.size + 8), shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise RunError(
                f"the cache of {self.address} needs {show_bytes(needed)} in {str(self.path.parent)!r}, where "
                f"{show_bytes(free)} are free",
                repair="choose another folder, a smaller dtype, or top_k for logits of many classes",
            )
        self._use(codec)
        manifest = {"address": str(self.address), "samples": self.samples, **codec.as_data()}
        write_atomically(self.path.with_suffix(".json"), json.dumps(manifest) + "\n")

    def _clear_away(self) -> None:
        """Remove what cannot be used, and what a process left that ended before it wrote a manifest."""
        manifest = self.path.with_suffix(".json")
        if manifest.exists():
            self._tell(f"{manifest} is damaged; what it describes is computed again")
        for suffix in (".json", ".data", ".marks"):
            self.path.with_suffix(suffix).unlink(missing_ok=True)

    def _use(self, codec: Codec) -> None:
        self.codec = codec
        self.records = Records(self.path, self.samples, codec.size)
        if self.records.lost:
            lost = show_bytes(self.records.lost)
            self._tell(f"{self.path.name} in {self.path.parent} lacks {lost}; what is lost is computed again")

    def _check(self, value: Tensor) -> None:
        assert self.codec is not None
        found, stored = (tuple(value.shape[1:]), value.dtype), (self.codec.shape, self.codec.dtype)
        if found != stored:
            raise DataError(
                f"{self.address} cannot be cached: it yields {_shown(*found)} per row here and {_shown(*stored)} "
                "elsewhere in the data set",
                repair="a cache needs one shape: let the data set pad all samples to the same length, address "
                f"something pooled, or write cache: false (after a change of code, delete {str(self.path.parent)!r})",
            )

    def _encoded(self, value: Tensor) -> Any:
        assert self.codec is not None
        try:
            return self.codec.encode(value)
        except KdcoreError as error:
            raise error.adding(f"at {self.address}") from None

    def _tell_damage(self, count: int) -> None:
        samples = "1 sample" if count == 1 else f"{count} samples"
        self._tell(f"{self.path.name} in {self.path.parent} is damaged at {samples} so far, computed again")
        self._told_damage = count


def _file_name(address: Address) -> str:
    """Return a name that people can read and that no other address has."""
    text = str(address)
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:_SLUG_LENGTH]
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _shown(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
