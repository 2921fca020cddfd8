"""The projector of both sides: mean, linear layer, standardisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugin_srd.checks import NO_LAYER
from kdcore.contracts import Facts, TensorFacts
from kdcore.shapes import check_rank, check_several


class SRDProjector(nn.Module):
    """Mean over positions, a linear layer, and standardisation over the batch.

        y = (z - mean_b z) / sqrt(var_b z + eps)      z = W mean_positions(x) + c

    with mean and (biased) variance of each feature over the samples of the batch. It is a batch
    normalisation without weights that always uses the batch at hand, in evaluation too: so nothing has to be
    trained or saved on the teacher's side, where `linear` is false.

    Arguments:
        in_features: channels of x; taken from x unless given.
        out_features: features of the output; taken from dimension 1 of `like` unless given. Without
            `linear` they are those of x.
        linear: whether there is a linear layer.
        eps: added to the variance, above 0.

    Called with x (B, D) or (B, D, *spatial), B from 2; returns (B, out_features).
    """

    layer: nn.Linear | None

    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        linear: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be 1 or more")
        if not linear and out_features is not None:
            raise ValueError(NO_LAYER)
        if not eps > 0:
            raise ValueError(f"eps is {eps}; it must be above 0")
        self.in_features = in_features
        self.out_features = out_features
        self.linear = linear
        self.eps = eps
        self.layer = None
        if linear and in_features is not None and out_features is not None:
            self.layer = nn.Linear(in_features, out_features)

    def setup(self, facts: Facts) -> None:
        """Create the linear layer; again with the same sizes it changes nothing.

        Raises ValueError where a size is not known, or differs from the one given.
        """
        x = facts.inputs.get("x")
        found = x.shape[1] if isinstance(x, TensorFacts) and len(x.shape) > 1 else None
        if None not in (found, self.in_features) and found != self.in_features:
            raise ValueError(f"in_features is {self.in_features} but x has {found} channels; leave in_features out")
        if not self.linear:
            return
        inside = self.in_features if found is None else found
        outside = self.out_features
        if outside is None and facts.like is not None and len(facts.like.shape) > 1:
            outside = facts.like.shape[1]
        if inside is None or outside is None:
            missing, remedy = ("in_features", "bind x") if inside is None else ("out_features", "give like:")
            raise ValueError(f"srd_projector does not know its {missing}; {remedy}, or give the param {missing}")
        if self.layer is None:
            self.layer = nn.Linear(inside, outside)
        elif (self.layer.in_features, self.layer.out_features) != (inside, outside):
            raise ValueError(
                f"srd_projector has a layer from {self.layer.in_features} to {self.layer.out_features} features and "
                f"cannot change to {inside} and {outside}; use one adapter per shape"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return standardised features (B, out_features); raises ValueError for fewer than two samples."""
        check_rank(2, x=x)
        check_several("srd_projector standardises over the samples", x=x)
        if self.linear and self.layer is None:
            raise ValueError(
                "srd_projector was used before setup(facts) created its layer; call setup first, or give in_features "
                "and out_features"
            )
        features = x.flatten(2).mean(2) if x.dim() > 2 else x
        if self.layer is not None:
            features = self.layer(features)
        # In float32 under autocast, whatever the layer's precision was.
        with torch.autocast(x.device.type, enabled=False):
            wide = features.to(torch.promote_types(features.dtype, torch.float32))
            return F.batch_norm(wide, None, None, training=True, eps=self.eps).to(features.dtype)

    def extra_repr(self) -> str:
        """Say what was configured."""
        return f"in_features={self.in_features}, out_features={self.out_features}, linear={self.linear}, eps={self.eps}"
