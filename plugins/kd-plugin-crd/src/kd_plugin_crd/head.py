"""The head that makes embeddings of length one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdcore.contracts import Facts, TensorFacts
from kdcore.shapes import check_rank


class CRDHead(nn.Module):
    """A linear map to embeddings of length one.

        y = (W vec(x) + b) / ||W vec(x) + b||_2

    Tian, Krishnan, Isola: Contrastive Representation Distillation, 2020, section 3.2. Student and teacher
    have one each, and both are trained.

    Arguments:
        in_features: numbers per sample of x; taken from x unless given.
        out_features: size of the embedding.

    Called with x (B, ...), flattened; returns (B, out_features).
    """

    def __init__(self, in_features: int | None = None, out_features: int = 128) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        self.out_features = out_features
        self.linear = None if in_features is None else nn.Linear(in_features, out_features)

    def setup(self, facts: Facts) -> None:
        """Create the linear map for what x has; raises ValueError where that differs from what exists."""
        x = facts.inputs["x"]
        if not isinstance(x, TensorFacts):
            raise ValueError("x must be one tensor; pick one with #key or #0 in its address")
        features = math.prod(x.shape[1:])
        if self.linear is None:
            self.linear = nn.Linear(features, self.out_features)
        elif self.linear.in_features != features:
            raise ValueError(f"in_features is {self.linear.in_features} but x has shape {x.shape}: {features} a sample")

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings of length one; a vector of zeros stays zero."""
        if self.linear is None:
            raise ValueError("crd_head was used before setup(facts) created its weights; call it, or give in_features")
        check_rank(2, x=x)
        y: Tensor = self.linear(x.flatten(1))
        length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
        return y / torch.where(length > 0, length, 1)
