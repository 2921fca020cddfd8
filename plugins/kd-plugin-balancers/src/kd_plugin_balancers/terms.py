"""The terms of a stage: their names, their weights, and their values of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdcore.component import Complaint


class Terms:
    """What a balancer was built for: a weight for each term, None for a loss that a model returns."""

    def __init__(self, weights: Mapping[str, float | None]) -> None:
        if not weights:
            raise ValueError("there are no terms to balance: the stage has no losses")
        self.names = list(weights)
        self.returned = [name for name, weight in weights.items() if weight is None]
        self.weights = [1.0 if weight is None else weight for weight in weights.values()]

    def complete(self, values: Mapping[str, Tensor], *, training: bool) -> Mapping[str, Tensor]:
        """Return one scalar for each term.

        Many models return their losses in training only, so in eval mode those count as 0. Anything
        else that is missing or unexpected, and anything that is no scalar, raises ValueError.
        """
        for name, value in values.items():
            if value.dim():
                raise ValueError(f"term {name} has shape {tuple(value.shape)}; a term is a scalar")
        missing = [name for name in self.names if name not in values]
        if not missing and len(values) == len(self.names):
            return values
        strange = [name for name in values if name not in self.names]
        if strange or training or set(missing) - set(self.returned):
            raise ValueError(
                f"the balancer was built for the terms {', '.join(self.names)}; "
                f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(strange) or 'none'}. "
                "In training a model must return the same losses every time"
            )
        zero = next(iter(values.values()), torch.zeros(())).new_zeros(())
        return {**values, **dict.fromkeys(missing, zero)}

    def stacked(self, values: Mapping[str, Tensor], *, training: bool) -> Tensor:
        """Return the scalars as a vector in the order of `names`."""
        values = self.complete(values, training=training)
        return torch.stack([values[name] for name in self.names])


def weighted_total(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the sum of `weights[name] * values[name]`."""
    (first, weight), *others = weights.items()
    total = values[first] * weight
    for name, weight in others:
        total = torch.add(total, values[name], alpha=weight)
    return total


def refuse(problems: Sequence[Complaint]) -> None:
    """Raise ValueError naming all problems, if there are any."""
    if problems:
        raise ValueError("; ".join(problem.message for problem in problems))
