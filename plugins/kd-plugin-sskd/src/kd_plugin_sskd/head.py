"""The head that makes embeddings for the self-supervised task."""

from __future__ import annotations

import math

from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts
from kdcore.shapes import check_rank


class SSKDHead(nn.Module):
    """Two linear layers with ReLU between them.

    Xu, Liu, Li, Loy: Knowledge Distillation Meets Self-Supervision, 2020, section 3.1. Teacher and student
    have one each; that of the teacher is trained first, with `sskd_auxiliary`.

    Arguments:
        in_features: numbers per sample of x; taken from x unless given.
        hidden_features: size of the hidden layer; in_features unless given.
        out_features: size of the embedding; in_features unless given.

    Called with x (B, ...), flattened; returns (B, out_features).
    """

    def __init__(
        self,
        in_features: int | None = None,
        hidden_features: int | None = None,
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        given = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        for name, size in given.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.out_features = out_features
        self.body = None if in_features is None else self._build(in_features)

    def setup(self, facts: Facts) -> None:
        """Create the layers for what x has; raises ValueError where that differs from what exists."""
        x = facts.inputs["x"]
        if not isinstance(x, TensorFacts):
            raise ValueError("x must be one tensor; pick one with #key or #0 in its address")
        features = math.prod(x.shape[1:])
        if self.body is None:
            self.body = self._build(features)
        elif self.in_features != features:
            raise ValueError(f"in_features is {self.in_features} but x has shape {x.shape}: {features} a sample")

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings."""
        if self.body is None:
            raise ValueError("sskd_head was used before setup(facts) created its layers; call it, or give in_features")
        check_rank(2, x=x)
        return self.body(x.flatten(1))  # type: ignore[no-any-return]

    def _build(self, features: int) -> nn.Module:
        self.in_features = features
        hidden = self.hidden_features or features
        return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, self.out_features or features))
