"""Scalars as losses return them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def scalars() -> Callable[..., dict[str, Tensor]]:
    """Make float64 terms that want a gradient, from their values by name."""
    return lambda values: {
        name: torch.tensor(float(value), dtype=torch.float64, requires_grad=True) for name, value in values.items()
    }


@pytest.fixture
def slopes() -> Callable[..., dict[str, float]]:
    """Return the gradient of a total in each term."""

    def gradients(total: Tensor, terms: dict[str, Tensor]) -> dict[str, float]:
        found = torch.autograd.grad(total, list(terms.values()), allow_unused=True)
        return {name: None if each is None else each.item() for name, each in zip(terms, found, strict=True)}

    return gradients
