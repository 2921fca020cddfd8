"""A file of records of one size, each marked by its checksum once it is complete."""

from __future__ import annotations

import zlib
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]

# In the upper half of a mark, so that no checksum looks like a missing one; the first byte says which layout this is.
_PRESENT = 0x4B440001 << 32


class Records:
    """`count` records of `size` bytes in `<path>.data`, read through the page cache, and their marks in `<path>.marks`.

    A record is written first and then its mark, eight aligned bytes that hold its checksum. So a
    process that dies leaves a record whole or missing. After a loss of power, where a mark may have
    reached the disk before its record, and after any other damage, the checksum does not fit, and
    the record counts as missing. Checksums are looked at once per process.

    Writers must hold a lock; readers need none, because a record with a mark that fits is never
    written again.
    """

    def __init__(self, path: Path, count: int, size: int) -> None:
        self.path = path
        self.count = count
        self.size = size
        self.lost = 0
        self.damaged: set[int] = set()
        files = (path.with_suffix(".data"), count * size), (path.with_suffix(".marks"), count * 8)
        self.nbytes = sum(length for _, length in files)
        for file, length in files:
            self.lost += _lengthen(file, length)
        self._data: Bytes = np.memmap(files[0][0], dtype=np.uint8, mode="r", shape=(count, size))
        self._marks = np.memmap(files[1][0], dtype=np.uint64, mode="r", shape=(count,))
        self._sound = np.zeros(count, dtype=bool)

    def present(self, indices: Indices) -> NDArray[np.bool_]:
        """Return which of the records are there and whole."""
        known = self._sound[indices]
        if not known.all():
            for index in np.unique(indices[~known]):
                self._sound[index] = self._fits(int(index))
            known = self._sound[indices]
        return known

    def marked(self) -> int:
        """Return how many records have a mark, whether it fits or not."""
        return int(np.count_nonzero(self._marks))

    def read(self, indices: Indices, out: Bytes) -> None:
        """Copy records that are present into `out`."""
        # The default mode would go through a buffer; that the indices are in range is known.
        np.take(self._data, indices, axis=0, out=out, mode="clip")

    def write(self, indices: Indices, rows: Bytes) -> None:
        """Write records that are missing; the caller holds the lock."""
        marks = [(_PRESENT | _checksum(row, int(index))) for index, row in zip(indices, rows, strict=True)]
        # Not through the map: there a full disk kills the process instead of raising an OSError.
        with self.path.with_suffix(".data").open("r+b", buffering=0) as file:
            for index, row in zip(indices, rows, strict=True):
                _write(file, row.tobytes(), int(index) * self.size)
        with self.path.with_suffix(".marks").open("r+b", buffering=0) as file:
            for index, mark in zip(indices, marks, strict=True):
                _write(file, np.uint64(mark).tobytes(), int(index) * 8)

    def _fits(self, index: int) -> bool:
        mark = int(self._marks[index])
        if not mark:
            return False
        sound = mark == _PRESENT | _checksum(self._data[index], index)
        if not sound:
            self.damaged.add(index)
        return sound


def _checksum(row: Bytes, index: int) -> int:
    # It starts from the index, so that a record in another's place does not pass for it.
    return zlib.crc32(row.data, index)


def _lengthen(file: Path, length: int) -> int:
    """Make `file` that long, filled up with zeros that take no room, and return how many bytes it had lost."""
    # A complete cache may lie where nobody can write: nothing is touched that needs no change.
    try:
        found = file.stat().st_size
    except FileNotFoundError:
        file.touch()
        found = 0
    if found == length:
        return 0
    with file.open("r+b") as opened:
        opened.truncate(length)
    return max(length - found, 0) if found else 0


def _write(file: FileIO, data: bytes, offset: int) -> None:
    file.seek(offset)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
