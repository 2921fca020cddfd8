"""A step that is not finite, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from kdcore.engine.mean import TOTAL

_SHOWN = 8
BAD_GRADIENT = "the losses are finite, but a gradient is not"

# Terms that are the cause, each with its samples where these are known.
Blamed = Mapping[str, list[int]]


class Finding(NamedTuple):
    """A step that is not finite, in its losses or in its gradient alone, and the samples that it was made on."""

    step: int
    what: str
    samples: list[int]
    gradient: bool = False
    values: Mapping[str, float] = {}

    @classmethod
    def of_losses(cls, step: int, values: Mapping[str, Tensor], indices: Tensor) -> Finding:
        """Return what a batch's losses show; waits for the device."""
        numbers = {name: float(value) for name, value in values.items()}
        return cls(step, _named(numbers), indices.tolist(), values=numbers)

    @classmethod
    def of_gradient(cls, step: int, indices: Iterable[Tensor], what: str = BAD_GRADIENT) -> Finding:
        """Return what is known where the losses are finite; `indices` are those of each batch of the step."""
        return cls(step, what, [index for each in indices for index in each.tolist()], gradient=True)

    @property
    def everywhere(self) -> bool:
        """Whether no term at all is finite."""
        return not any(math.isfinite(value) for name, value in self.values.items() if name != TOTAL)

    def told(self, blamed: Blamed) -> str:
        """Say what was found, with the terms and samples that are known to be the cause."""
        samples = sorted({sample for each in blamed.values() for sample in each}) or self.samples
        if not self.gradient:
            return f"{self.what} on {sample_list(samples)}"
        what = self.what
        if blamed:
            what = what.replace("a gradient", f"the gradient of {' and '.join(f'term {name}' for name in blamed)}")
        return f"{what}, on {sample_list(samples)}" if samples else what

    def as_record(self, outcome: str, blamed: Blamed) -> dict[str, Any]:
        """Return all that is known, as diverged.json has it: JSON has no NaN, so such a value is a text."""
        values = {name or "total": value if math.isfinite(value) else str(value) for name, value in self.values.items()}
        return {
            "step": self.step,
            "outcome": outcome,
            "found": self.what,
            "values": values,
            "terms": {name: list(samples) for name, samples in blamed.items()},
            "samples": self.samples,
        }


def merged(every: Iterable[Blamed]) -> dict[str, list[int]]:
    """Return what several processes blame, put together."""
    found: dict[str, list[int]] = {}
    for each in every:
        for name, samples in each.items():
            found[name] = [*found.get(name, []), *samples]
    return found


def listed(indices: Tensor | list[int]) -> str:
    """Return the first sample indices as text."""
    shown = indices.tolist() if isinstance(indices, Tensor) else indices
    return ", ".join(map(str, shown[:_SHOWN])) + (f", ... ({len(shown)} in all)" if len(shown) > _SHOWN else "")


def sample_list(indices: list[int]) -> str:
    """Return `sample 3`, or `samples 3, 5` and so on."""
    return f"sample{'s' if len(indices) != 1 else ''} {listed(indices)}"


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _named(values: Mapping[str, float]) -> str:
    """Say which values are not finite: the terms, or the total alone where every term is."""
    terms = [f"term {name} is {value}" for name, value in values.items() if name != TOTAL and not math.isfinite(value)]
    return " and ".join(terms) or f"the total is {values[TOTAL]}"
