"""Numbers that were looked up in an embedding and are not in it: which embedding, and which numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Lookup:
    """A lookup that failed, and the least and the largest number of it."""

    table: nn.Embedding
    numbers: Tensor
    rows: int
    low: int
    high: int

    def __str__(self) -> str:
        return (
            f"an Embedding of {self.rows} rows, which are 0 to {self.rows - 1}, was asked for rows "
            f"{self.low} to {self.high}"
        )

    def name_in(self, module: nn.Module) -> str:
        """Return the name of the table in a model, nothing if it is not there."""
        return next((name for name, each in module.named_modules() if each is self.table), "")

    def source(self, batch: Mapping[str, Any]) -> str:
        """Return the entry of a batch that holds the numbers, nothing if they came from elsewhere."""
        for name, value in batch.items():
            if isinstance(value, Tensor) and value.shape == self.numbers.shape and torch.equal(value, self.numbers):
                return name
        return ""


def failed_lookup(error: BaseException) -> Lookup | None:
    """Return the lookup in which an IndexError was raised, None if it was raised elsewhere or on a device."""
    if not isinstance(error, IndexError):
        return None
    for names in _frames(error.__traceback__):
        table, numbers = names.get("self"), names.get("input")
        if isinstance(table, nn.Embedding) and isinstance(numbers, Tensor) and numbers.device.type == "cpu":
            low, high = (int(each) for each in numbers.aminmax()) if numbers.numel() else (0, 0)
            if low < 0 or high >= table.num_embeddings:
                return Lookup(table, numbers, table.num_embeddings, low, high)
    return None


def _frames(traceback: TracebackType | None) -> Iterator[Mapping[str, Any]]:
    while traceback is not None:
        yield traceback.tb_frame.f_locals
        traceback = traceback.tb_next
