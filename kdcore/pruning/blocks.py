"""A pattern applied to one weight: from scores of weights to scores of blocks, and from blocks back to weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Above this, the ranks within a group come from a sort instead of from comparing each pair.
_PAIRWISE = 8


class Blocks:
    """The blocks of one weight: a grid over its elements, some dimensions of which make up a block.

    Arguments:
        weight_shape: the shape of the weight.
        sizes: the shape that the weight, once in the order of `order`, is seen in.
        within: the dimensions of `sizes` that lie within a block; the others number the blocks.
        order: the permutation of the weight's dimensions that comes first; None keeps them.
        shape: the shape of what has one value per block; unless given, `sizes` without `within`.
        how: `mean`, `sum` or `max`, how the score of a block follows from those of its weights.
    """

    needs_elements = False

    def __init__(
        self,
        weight_shape: Sequence[int],
        sizes: Sequence[int],
        within: Sequence[int],
        *,
        order: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        how: str = "mean",
    ) -> None:
        self.weight_shape = tuple(weight_shape)
        self.how = how
        self._sizes = tuple(sizes)
        self._within = tuple(within)
        self._order = tuple(order) if order is not None else None
        outer = tuple(1 if dim in self._within else size for dim, size in enumerate(sizes))
        self._kept = outer
        rows, *columns = self._sizes
        self._rows_only = (
            self._order is not None
            and self._order[0] == 0
            and 1 in self._within
            and rows * columns[0] == self.weight_shape[0]
            and all(self._sizes[dim] == 1 for dim in self._within if dim != 1)
        )
        self.shape = (
            tuple(shape)
            if shape is not None
            else tuple(size for dim, size in enumerate(sizes) if dim not in self._within)
        )

    @property
    def count(self) -> int:
        """The number of blocks."""
        return math.prod(self.shape)

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.weight_shape)

    @property
    def size(self) -> int:
        """The number of weights that go with a block."""
        return self.elements // self.count

    def reduce(self, scores: Tensor) -> Tensor:
        """Return one score per block from those of its weights, by `how`."""
        if not self._within:
            return self._grid(scores).reshape(self.shape)
        if self.how == "sum":
            return self.sum(scores)
        if self.how == "max":
            return self._grid(scores).amax(self._within).reshape(self.shape)
        return self._grid(scores).mean(self._within).reshape(self.shape)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over each block of something that has the weight's shape."""
        if self._rows_only:
            # Summed before the copy into another order, which is a fraction as large then.
            rows = values.reshape(*self._sizes[:2], *self.weight_shape[1:]).sum(1)
            return rows.permute(self._order or tuple(range(rows.dim()))).reshape(self.shape)
        grid = self._grid(values)
        return (grid.sum(self._within) if self._within else grid).reshape(self.shape)

    def amax(self, values: Tensor) -> Tensor:
        """Return the largest value in each block."""
        grid = self._grid(values)
        return (grid.amax(self._within) if self._within else grid).reshape(self.shape)

    def expand(self, values: Tensor) -> Tensor:
        """Return what has one value per block as something of the weight's shape."""
        grid = values.reshape(self._kept).expand(self._sizes)
        if self._order is None:
            return grid.reshape(self.weight_shape)
        ordered = grid.reshape([self.weight_shape[dim] for dim in self._order])
        return ordered.permute([self._order.index(dim) for dim in range(len(self._order))]).contiguous()

    def mask(self, kept: Tensor, scores: Tensor | None = None) -> Tensor:
        """Return which weights stay, given which blocks do; `scores` of the weights where `needs_elements`."""
        return self.expand(kept).contiguous()

    def kept(self, mask: Tensor) -> Tensor:
        """Return which blocks stay, given which weights do."""
        return self.amax(mask)

    def zero(self, values: Tensor) -> Tensor:
        """Return which blocks have nothing left to prune."""
        return ~self.amax(values != 0)

    def _grid(self, values: Tensor) -> Tensor:
        return (values if self._order is None else values.permute(self._order)).reshape(self._sizes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weight_shape} as {'x'.join(map(str, self.shape))} blocks)"


class Groups(Blocks):
    """The `N:M` pattern: blocks of M consecutive inputs, in each of which the N lowest weights go.

    `reduce` looks at these N only, since they alone are at stake.
    """

    needs_elements = True

    def __init__(
        self,
        weight_shape: Sequence[int],
        sizes: Sequence[int],
        within: Sequence[int],
        *,
        pruned: int,
        order: Sequence[int] | None = None,
        how: str = "mean",
    ) -> None:
        super().__init__(weight_shape, sizes, within, order=order, how=how)
        self.pruned = pruned

    @property
    def size(self) -> int:
        """The number of weights that go with a block: N."""
        return self.pruned

    def reduce(self, scores: Tensor) -> Tensor:
        """Return the mean, sum or maximum of the N lowest scores of each block."""
        grid = self._grid(scores)
        lowest = grid.masked_fill(~self._lowest(grid), -math.inf if self.how == "max" else 0)
        if self.how == "max":
            return lowest.amax(-1)
        total = lowest.sum(-1)
        return total if self.how == "sum" else total / self.pruned

    def mask(self, kept: Tensor, scores: Tensor | None = None) -> Tensor:
        """Return which weights stay: all of the blocks that do, and all but the N lowest of the others."""
        assert scores is not None
        grid = kept.unsqueeze(-1) | ~self._lowest(self._grid(scores))
        if self._order is None:
            return grid.reshape(self.weight_shape)
        ordered = grid.reshape([self.weight_shape[dim] for dim in self._order])
        return ordered.permute([self._order.index(dim) for dim in range(len(self._order))]).contiguous()

    def kept(self, mask: Tensor) -> Tensor:
        """Return which blocks keep all their weights."""
        return self._grid(mask).all(-1)

    def zero(self, values: Tensor) -> Tensor:
        """Return which blocks have N zeros or more."""
        return (self._grid(values) == 0).sum(-1) >= self.pruned

    def _lowest(self, grid: Tensor) -> Tensor:
        """Mark the N lowest of each group; of equal scores the first."""
        size = grid.shape[-1]
        if size > _PAIRWISE:
            order = grid.argsort(dim=-1, stable=True)[..., : self.pruned]
            return torch.zeros_like(grid, dtype=torch.bool).scatter_(-1, order, True)
        lowest = torch.empty(grid.shape, dtype=torch.bool, device=grid.device)
        for mine in range(size):
            rank = torch.zeros(grid.shape[:-1], dtype=torch.int8, device=grid.device)
            for other in range(size):
                if other < mine:
                    rank += grid[..., other] <= grid[..., mine]
                elif other > mine:
                    rank += grid[..., other] < grid[..., mine]
            lowest[..., mine] = rank < self.pruned
        return lowest
