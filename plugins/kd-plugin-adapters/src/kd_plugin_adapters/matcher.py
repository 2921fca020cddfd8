"""A linear map along the one dimension in which two tensors differ."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kd_plugin_adapters.sized import SizedAdapter, check_sizes, facts_of_x, in_size, out_size
from kdcore.contracts import Facts, TensorFacts


class FeatureMatcher(SizedAdapter):
    """A linear layer along the one dimension in which x and `like` differ; the identity where none does.

        y = (x^T W^T + b)^T,   ^T exchanging that dimension and the last

    As the feature matcher of Intel Neural Compressor's intermediate-layer distillation, except that it
    exists from setup on, so the optimizer trains it, and that the batch dimension is never mapped.

    Arguments:
        dim: the dimension to map, not the batch's; found by comparing the shapes unless given.
        in_features: x's size along it; taken from x unless given.
        out_features: the output's; taken from `like` unless given.
        bias: whether b is there.

    Called with x (B, ...); returns x's shape with the size along `dim` changed.
    Raises ValueError where more than one dimension differs or the ranks do.
    """

    def __init__(
        self,
        dim: int | None = None,
        in_features: int | None = None,
        out_features: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__("feature_matcher", dim=dim, in_features=in_features, out_features=out_features)
        check_sizes(in_features=in_features, out_features=out_features)
        if dim == 0:
            raise ValueError("dim is 0, the batch; feature_matcher maps one of the other dimensions")
        self.bias = bias
        if None not in self.given.values():
            self.adopt(self.given)

    def infer(self, facts: Facts) -> dict[str, Any]:
        """Return the dimension that differs and both sizes along it."""
        x, dim = facts_of_x(facts), self.given["dim"]
        if dim is not None and x is not None and dim == -len(x.shape):
            raise ValueError(f"x has shape {x.shape}; dim={dim} is the batch, which feature_matcher does not map")
        if dim is None:
            dim = self._differing(x, facts.like)
            if dim is None:
                return {"dim": None, "in_features": 0, "out_features": 0}
        return {
            "dim": dim,
            "in_features": in_size(self.kind, "in_features", self.given["in_features"], x, dim),
            "out_features": out_size(self.kind, "out_features", self.given["out_features"], facts.like, dim),
        }

    def build(self, dim: int | None, in_features: int, out_features: int) -> nn.Module:
        """Return the linear layer, or the identity where no dimension differs."""
        return nn.Identity() if dim is None else nn.Linear(in_features, out_features, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x mapped along `dim`."""
        dim: int | None = self.sizes["dim"] if self.sizes else None
        if dim is None:
            return super().forward(x)
        return super().forward(x.transpose(dim, -1)).transpose(dim, -1)

    def _differing(self, x: TensorFacts | None, like: TensorFacts | None) -> int | None:
        if x is None or like is None:
            raise ValueError("feature_matcher does not know its dim; give like:, or dim, in_features and out_features")
        shapes = f"x has shape {x.shape} but like has {like.shape}"
        if len(x.shape) != len(like.shape):
            raise ValueError(f"{shapes}; feature_matcher needs as many dimensions in both (see flatten, pool, select)")
        dims = [dim for dim in range(1, len(x.shape)) if x.shape[dim] != like.shape[dim]]
        if len(dims) > 1:
            raise ValueError(
                f"{shapes}: dimensions {', '.join(map(str, dims))} differ and feature_matcher maps one; "
                "give dim, or bring the others together first (see conv, pool, resize)"
            )
        return dims[0] if dims else None
