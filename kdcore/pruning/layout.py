"""How a pattern lies over the weight of a linear layer or a convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdcore.pruning.blocks import Blocks, Groups
from kdcore.pruning.pattern import CHANNEL_X1, FILTER, INPUT_CHANNEL, ONE_X_CHANNEL, Pattern


class MisfitError(Exception):
    """A pattern that does not fit a weight; says why."""


@dataclass(frozen=True)
class Layout:
    """The shape of a weight and what its dimensions are.

    A weight is seen as a matrix with one row per output. A convolution's (o, i, *taps) becomes (o, taps x i): all
    inputs of the first tap, then those of the second, so that the blocks of a row lie within a tap, as in Neural
    Compressor.

    Arguments:
        shape: of the weight.
        transposed: the weight is (inputs, outputs), as in transformers' Conv1D.
        groups: of a convolution.
    """

    shape: tuple[int, ...]
    transposed: bool = False
    groups: int = 1

    @property
    def outputs(self) -> int:
        """The number of rows."""
        return self.shape[1] if self.transposed else self.shape[0]

    @property
    def inputs(self) -> int:
        """The inputs of one row, at one tap."""
        return self.shape[0] if self.transposed else self.shape[1]

    @property
    def columns(self) -> int:
        """The length of a row."""
        return math.prod(self.shape) // self.outputs

    @property
    def order(self) -> tuple[int, ...] | None:
        """The permutation of the weight's dimensions that makes it a matrix once flattened; None for none."""
        if self.transposed:
            return (1, 0)
        taps = range(2, len(self.shape))
        return (0, *taps, 1) if taps else None

    def blocks(self, pattern: Pattern, how: str) -> Blocks:
        """Return the blocks of a pattern other than `head`; raises MisfitError where it does not fit."""
        if pattern.name == FILTER:
            order = (1, 0) if self.transposed else None
            return Blocks(self.shape, (self.outputs, self.columns), (1,), order=order, how=how)
        if pattern.name == INPUT_CHANNEL:
            return self._input_channels(how)
        if pattern.within_groups:
            return self._groups(pattern, how)
        rows, columns = self._block(pattern)
        sizes = (self.outputs // rows, rows, self.columns // columns, columns)
        within = tuple(dim for dim in (1, 3) if sizes[dim] > 1)
        shape = (sizes[0], sizes[2])
        return Blocks(self.shape, sizes, within, order=self.order, shape=shape, how=how)

    def _block(self, pattern: Pattern) -> tuple[int, int]:
        rows, columns = {CHANNEL_X1: (self.outputs, 1), ONE_X_CHANNEL: (1, self.inputs)}.get(
            pattern.name, (pattern.rows, pattern.columns)
        )
        _fits(pattern, self.outputs, rows, "outputs")
        _fits(pattern, self.columns, columns, "inputs" if self.columns == self.inputs else "inputs times taps")
        return rows, columns

    def _groups(self, pattern: Pattern, how: str) -> Groups:
        what = "inputs" if self.columns == self.inputs else "inputs times taps"
        _fits(pattern, self.columns, pattern.group, what)
        sizes = (self.outputs, self.columns // pattern.group, pattern.group)
        return Groups(self.shape, sizes, (2,), pruned=pattern.pruned, order=self.order, how=how)

    def _input_channels(self, how: str) -> Blocks:
        if self.transposed:
            return Blocks(self.shape, (self.inputs, self.outputs), (1,), how=how)
        taps = math.prod(self.shape[2:])
        sizes = (self.groups, self.outputs // self.groups, self.inputs, taps)
        return Blocks(self.shape, sizes, (1, 3), shape=(self.groups * self.inputs,), how=how)


def _fits(pattern: Pattern, length: int, part: int, what: str) -> None:
    if length % part:
        raise MisfitError(f"{pattern} does not fit: {length} {what} are no multiple of {part}")


def rows_by_head(shape: Sequence[int], heads: int, how: str, *, stacked: int = 1, transposed: bool = False) -> Blocks:
    """Return one block per head over the rows of a projection, `stacked` projections one above the other."""
    outputs, inputs = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
    sizes = (stacked, heads, outputs // (stacked * heads), inputs)
    return Blocks(shape, sizes, (0, 2, 3), order=(1, 0) if transposed else None, how=how)


def columns_by_head(shape: Sequence[int], heads: int, how: str, *, transposed: bool = False) -> Blocks:
    """Return one block per head over the columns of the output projection."""
    outputs, inputs = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
    sizes = (outputs, heads, inputs // heads)
    return Blocks(shape, sizes, (0, 2), order=(1, 0) if transposed else None, how=how)


def bias_by_head(length: int, heads: int, *, stacked: int = 1) -> Blocks:
    """Return one block per head over a projection's bias."""
    return Blocks((length,), (stacked, heads, length // (stacked * heads)), (0, 2))
