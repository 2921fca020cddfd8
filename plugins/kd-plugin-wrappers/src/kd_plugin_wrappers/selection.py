"""Which positions of a batch count, and tensors cut down to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from kdcore.contracts import TensorFacts


class Shaped(Protocol):
    """A tensor, or the facts about one."""

    @property
    def shape(self) -> Sequence[int]:
        """The size of each dimension."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of an element."""


class Selection:
    """The rows of those positions where `keep` (*positions) is true."""

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep
        # The one place where the host waits: how many rows there are decides every later shape.
        self.rows = keep.flatten().nonzero().squeeze(1)

    @property
    def num_kept(self) -> int:
        """How many positions count."""
        return self.rows.shape[0]

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """Return the kept positions of `tensor` (*positions, ...) as (N, ...)."""
        check_leading(name, tensor, self.keep.shape)
        flat = tensor.flatten(0, self.keep.dim() - 1)
        return flat if self.num_kept == self.keep.numel() else flat.index_select(0, self.rows)


def flattened(name: str, facts: Any, positions: Sequence[int]) -> Any:
    """Return the facts of a tensor whose positions are one dimension."""
    if not isinstance(facts, TensorFacts):
        return facts
    check_leading(name, facts, positions)
    return replace(facts, shape=(math.prod(positions), *facts.shape[len(positions) :]))


def check_leading(name: str, tensor: Shaped, positions: Sequence[int]) -> None:
    """Raise ValueError unless the shape of `tensor` begins with `positions`."""
    if tuple(tensor.shape[: len(positions)]) != tuple(positions):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, which must begin with the positions {tuple(positions)} of the "
            "mask or labels; classes stand in the last dimension"
        )


def agreed_positions(deciders: Sequence[tuple[str, Shaped]]) -> tuple[int, ...]:
    """Return the shape that all masks and labels share; raises ValueError otherwise."""
    name, first = deciders[0]
    if not len(first.shape):
        raise ValueError(f"{name} is a single number; it needs a value for each position")
    for other, tensor in deciders[1:]:
        if tuple(tensor.shape) != tuple(first.shape):
            raise ValueError(
                f"{name} has shape {tuple(first.shape)} but {other} has {tuple(tensor.shape)}; "
                "masks and labels need the same positions"
            )
    return tuple(first.shape)


def is_integer(tensor: Shaped) -> bool:
    """Say whether the elements are whole numbers; truth values are not."""
    return not (tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool)


def as_boolean(mask: Tensor) -> Tensor:
    """Return a boolean mask; raises ValueError for numbers that may mean something else."""
    if mask.dtype == torch.bool:
        return mask
    if not is_integer(mask):
        raise ValueError(
            f"mask has dtype {mask.dtype}; a mask is boolean or 0/1 integers, true where a position counts"
        )
    return mask != 0
