"""A process's part of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PartBatch(dict[str, Any]):
    """A process's part of a batch: `rows` of its samples count, of `whole` in all processes.

    With 0 rows the process has no sample, and what it holds only keeps it in step with the others.
    """

    rows = 0
    whole = 0

    @classmethod
    def of(cls, batch: Mapping[str, Any], rows: int, whole: int) -> PartBatch:
        """Return `batch` with its sizes."""
        part = cls(batch)
        part.rows, part.whole = rows, whole
        return part


def counted(batch: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many samples of a batch count in this process, and in all."""
    if isinstance(batch, PartBatch):
        return batch.rows, batch.whole
    rows = len(batch["index"])
    return rows, rows
