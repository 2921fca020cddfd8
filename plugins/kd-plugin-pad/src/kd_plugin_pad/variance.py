"""The branch that predicts variances."""

from __future__ import annotations

import math

from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts
from kdcore.shapes import check_rank, check_several


class PADVariance(nn.Module):
    """Predicts the logarithm of a variance for each number of an embedding.

        y = BN(W vec(x) + b)

    Zhang et al.: Prime-Aware Adaptive Distillation, 2020, section 3.2. Batch normalisation keeps the
    logarithms near 0, so that no variance runs away.

    Arguments:
        in_features: numbers per sample of x; taken from x unless given.
        out_features: numbers per sample of the embedding; taken from `like` unless given.

    Called with x (B, ...), flattened; returns (B, out_features).
    """

    def __init__(self, in_features: int | None = None, out_features: int | None = None) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        self.in_features = in_features
        self.out_features = out_features
        self.body: nn.Module | None = None
        if in_features is not None and out_features is not None:
            self._build(in_features, out_features)

    def setup(self, facts: Facts) -> None:
        """Create the layers; raises ValueError where a size is unknown or differs from what exists."""
        x = facts.inputs["x"]
        if not isinstance(x, TensorFacts):
            raise ValueError("x must be one tensor; pick one with #key or #0 in its address")
        if self.out_features is None and facts.like is None:
            raise ValueError("pad_variance does not know its out_features; give like: the teacher's embedding")
        features = math.prod(x.shape[1:])
        if self.body is None:
            wanted = self.out_features or math.prod(facts.like.shape[1:] if facts.like else ())
            self._build(self.in_features or features, wanted)
        if self.in_features != features:
            raise ValueError(f"in_features is {self.in_features} but x has shape {x.shape}: {features} a sample")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithms; in training a batch needs 2 samples."""
        if self.body is None:
            raise ValueError("pad_variance was used before setup(facts) created its layers; call it, or give sizes")
        check_rank(2, x=x)
        if self.training:
            check_several("pad_variance normalises over the samples", x=x)
        return self.body(x.flatten(1))  # type: ignore[no-any-return]

    def _build(self, in_features: int, out_features: int) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.body = nn.Sequential(nn.Linear(in_features, out_features), nn.BatchNorm1d(out_features))
