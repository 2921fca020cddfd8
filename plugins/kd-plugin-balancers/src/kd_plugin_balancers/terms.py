"""The terms of one step: the same names each time, a scalar each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdcore.component import Complaint


def stacked(terms: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the terms as a vector in the order of `names`."""
    check_terms(terms, names)
    return torch.stack([terms[name] for name in names])


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the sum of `weights[name] * terms[name]`."""
    (first, weight), *others = weights.items()
    total = terms[first] * weight
    for name, weight in others:
        total = torch.add(total, terms[name], alpha=weight)
    return total


def check_terms(terms: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Raise ValueError unless `terms` holds exactly one scalar for each of `names`."""
    if len(terms) != len(names) or any(name not in terms for name in names):
        missing = ", ".join(name for name in names if name not in terms) or "none"
        strange = ", ".join(name for name in terms if name not in names) or "none"
        raise ValueError(
            f"the balancer was built for the terms {', '.join(names)}; missing: {missing}; unexpected: {strange}. "
            "A model must return the same losses in every step"
        )
    for name, term in terms.items():
        if term.dim():
            raise ValueError(f"term {name} has shape {tuple(term.shape)}; a term is a scalar")


def check_names(terms: Mapping[str, float | None]) -> None:
    """Raise ValueError where there is nothing to balance."""
    if not terms:
        raise ValueError("there are no terms to balance: the stage has no losses")


def plain_weights(terms: Mapping[str, float | None]) -> list[float]:
    """Return the weight of every term; those that a model returns weigh 1."""
    return [1.0 if weight is None else weight for weight in terms.values()]


def refuse(problems: Sequence[Complaint]) -> None:
    """Raise ValueError naming all problems, if there are any."""
    if problems:
        raise ValueError("; ".join(problem.message for problem in problems))
