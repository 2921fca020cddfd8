"""Weighted means of a run's losses, read once per epoch or when they are shown.

Values are only appended in a step, and reduced a few times per epoch, so a step never waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Values wait for so many batches at most before they are read.
DRAIN_EVERY = 64

TOTAL = ""


class Added(NamedTuple):
    """One batch's values, the weights of some by name, the weight of the others, and where it came from."""

    values: dict[str, Tensor]
    weights: dict[str, Tensor | float]
    weight: float
    origin: Any = None


class Mean:
    """Weighted means of named scalars, summed in float64; the total goes under the name TOTAL.

    Arguments:
        watch: told of the first batch whose value is not finite, each time that values are read.
    """

    def __init__(self, watch: Callable[[Added], None] | None = None) -> None:
        self._watch = watch
        self._pending: list[Added] = []
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(
        self,
        values: dict[str, Tensor],
        weight: float,
        weights: Mapping[str, Tensor | float] | None = None,
        origin: Any = None,
    ) -> None:
        """Add one batch's values; `weights` overrides `weight` by name."""
        self.append(Added(values, dict(weights) if weights else {}, weight, origin))

    def append(self, added: Added) -> None:
        """Add one batch's values, put together beforehand."""
        self._pending.append(added)
        if len(self._pending) >= DRAIN_EVERY:
            self._drain()

    def latest(self) -> dict[str, float]:
        """Return the newest values; this waits for the device."""
        values = self._pending[-1].values if self._pending else self._means(self._sums, self._weights)
        return {name or "loss": float(value) for name, value in values.items()}

    def compute(self, gather: Callable[[Any], list[Any]] = lambda own: [own]) -> dict[str, float]:
        """Return the means so far, over all processes where `gather` returns what each of them has."""
        self._drain()
        every = gather((self._sums, self._weights))
        if len(every) == 1:
            return self._means(self._sums, self._weights)
        return self._means(_added([sums for sums, _ in every]), _added([weights for _, weights in every]))

    @staticmethod
    def _means(sums: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
        return {name: total / weights[name] if weights[name] else 0.0 for name, total in sums.items()}

    def check(self) -> None:
        """Tell the watcher now of a batch whose value is not finite; the sums stay as they are."""
        bad: list[Added] = []
        for names, group in self._groups().items():
            values, counts = _table(names, group)
            bad += _not_finite(group, torch.where(counts > 0, values, 0.0))
        self._tell(self._pending, bad)

    def state_dict(self) -> dict[str, Any]:
        """Return sums and what is not summed yet: summing it earlier would round otherwise."""
        pending = [added._asdict() for added in self._pending]
        return {"sums": dict(self._sums), "weights": dict(self._weights), "pending": pending}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from `state`, with values on `device`."""
        self._sums, self._weights = dict(state["sums"]), dict(state["weights"])
        self._pending = [
            Added(_moved(added["values"], device), _moved(added["weights"], device), added["weight"], added["origin"])
            for added in state["pending"]
        ]

    def _groups(self) -> dict[tuple[str, ...], list[Added]]:
        # Batches with the same names are reduced together: usually all of them, in one operation.
        groups: dict[tuple[str, ...], list[Added]] = {}
        for added in self._pending:
            if added.values:
                groups.setdefault(tuple(added.values), []).append(added)
        return groups

    def _drain(self) -> None:
        groups, pending = self._groups(), self._pending
        self._pending = []
        bad: list[Added] = []
        for names, group in groups.items():
            values, counts = _table(names, group)
            # A batch without positions has no mean; its weight of 0 must not turn NaN into the sum.
            weighted = torch.where(counts > 0, values * counts, 0.0)
            sums = weighted.sum(0).tolist()
            if not all(map(math.isfinite, sums)):
                bad += _not_finite(group, weighted)
            for name, total, weight in zip(names, sums, counts.sum(0).tolist(), strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + total
                self._weights[name] = self._weights.get(name, 0.0) + weight
        self._tell(pending, bad)

    def _tell(self, pending: list[Added], bad: list[Added]) -> None:
        if self._watch is not None and bad:
            identities = set(map(id, bad))
            self._watch(next(each for each in pending if id(each) in identities))


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _not_finite(group: list[Added], values: Tensor) -> list[Added]:
    return [group[row] for row in (~values.isfinite()).any(1).nonzero().flatten().tolist()]


def _table(names: tuple[str, ...], group: list[Added]) -> tuple[Tensor, Tensor]:
    """Return values and weights, a row for each batch and a column for each name."""
    shape = (len(group), len(names))
    values = torch.stack([value for added in group for value in added.values.values()]).double().view(shape)
    weights = [added.weights.get(name, added.weight) for added in group for name in names]
    return values, _stacked_counts(weights, values.device).view(shape)


def _moved(values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in values.items()}


def _stacked_counts(counts: list[Tensor | float], device: torch.device) -> Tensor:
    if any(isinstance(count, Tensor) for count in counts):
        return torch.stack([torch.as_tensor(count, device=device) for count in counts]).double()
    return torch.tensor(counts, dtype=torch.float64, device=device)
