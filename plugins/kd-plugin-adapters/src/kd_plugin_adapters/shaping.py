"""Parameter-free shaping: flatten, select, normalize."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Flatten(nn.Module):
    """Joins the dimensions from `start_dim` to `end_dim`, both included.

    Arguments:
        start_dim: the first one; 1 keeps the batch.
        end_dim: the last one.

    Called with x of any shape.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x with these dimensions joined."""
        _check_dim("start_dim", self.start_dim, x)
        _check_dim("end_dim", self.end_dim, x)
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Show both dimensions."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Select(nn.Module):
    """One slice of x along a dimension, such as the first token (dim 1, index 0).

    Arguments:
        dim: the dimension that goes.
        index: the position along it; negative counts from the end.

    Called with x of any shape.
    """

    def __init__(self, dim: int = 1, index: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """Return the slice."""
        _check_dim("dim", self.dim, x)
        size = x.shape[self.dim]
        if not -size <= self.index < size:
            raise ValueError(f"x has shape {tuple(x.shape)}; index {self.index} is outside dimension {self.dim}")
        return x.select(self.dim, self.index)

    def extra_repr(self) -> str:
        """Show dimension and index."""
        return f"dim={self.dim}, index={self.index}"


class Normalize(nn.Module):
    """Vectors of length one.

        y = x / ||x||_p

    Vectors no longer than `eps` have no direction and stay as they are, so values and gradients are finite.

    Arguments:
        p: the norm, 1 or more.
        dim: the dimension along which the vectors lie.
        eps: the length up to which a vector counts as zero, 0 or more.

    Called with x of any shape.
    """

    def __init__(self, p: float = 2.0, dim: int = -1, eps: float = 1e-12) -> None:
        super().__init__()
        if not p >= 1:
            raise ValueError(f"p must be 1 or more, found {p}")
        if not eps >= 0:
            raise ValueError(f"eps must be 0 or more, found {eps}")
        self.p = p
        self.dim = dim
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x with every vector divided by its norm."""
        _check_dim("dim", self.dim, x)
        norm = torch.linalg.vector_norm(x, self.p, self.dim, keepdim=True)
        return x / torch.where(norm > self.eps, norm, 1.0)

    def extra_repr(self) -> str:
        """Show the norm and its dimension."""
        return f"p={self.p}, dim={self.dim}, eps={self.eps}"


def _check_dim(name: str, dim: int, x: Tensor) -> None:
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"x has shape {tuple(x.shape)}; {name}={dim} is outside its {x.dim()} dimensions")
