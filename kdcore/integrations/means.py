"""Means of terms over many batches, each weighted by what it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_DRAIN_EVERY = 256


class TermMeans:
    """Weighted means of terms; nothing waits for the device until they are read, or a few hundred values wait.

    A term over positions weighs what it counted, any other the rows of its batch. So the means are those
    of one batch of everything.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[str, Tensor, Tensor | float]] = []
        self._sums: dict[str, tuple[float, float]] = {}
        self._device = torch.device("cpu")

    def add(self, terms: Mapping[str, Tensor], rows: int, counts: Mapping[str, Tensor | float]) -> None:
        """Add the terms of one pass, and what those over positions counted in it."""
        self._pending += [(name, value, counts.get(name, float(rows))) for name, value in terms.items()]
        if len(self._pending) >= _DRAIN_EVERY:
            self._drain()

    def compute(self, across: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Return the means so far.

        `across` sums a tensor over all processes; every process then calls this, with the same terms.
        """
        self._drain()
        sums = self._sums
        if across is not None and sums:
            flat = [number for pair in sums.values() for number in pair]
            whole = across(torch.tensor(flat, dtype=torch.float64, device=self._device)).tolist()
            sums = dict(zip(sums, zip(whole[::2], whole[1::2], strict=True), strict=True))
        return {name: total / weight if weight else 0.0 for name, (total, weight) in sums.items()}

    def _drain(self) -> None:
        if not self._pending:
            return
        names, values, weights = zip(*self._pending, strict=True)
        self._pending = []
        self._device = values[0].device
        # One transfer for all of them.
        scalars = [torch.as_tensor(each, dtype=torch.float32, device=self._device) for each in (*values, *weights)]
        whole = torch.stack(scalars).tolist()
        for name, value, weight in zip(names, whole[: len(names)], whole[len(names) :], strict=True):
            total, all_weights = self._sums.get(name, (0.0, 0.0))
            # A batch without positions has no mean, so its value must not count, NaN included.
            self._sums[name] = (total + value * weight if weight else total, all_weights + weight)
