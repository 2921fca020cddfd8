"""What is reported: how sparse the layers are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdcore.pruning.layers import PrunedLayer


@dataclass(frozen=True)
class Sparsity:
    """The part of the weights that is masked, of all pruned layers and of each by name."""

    total: float
    layers: dict[str, float]

    @classmethod
    def of(cls, layers: Iterable[PrunedLayer]) -> Sparsity:
        """Sum over layers; known on the host, so no device is waited for."""
        layers = list(layers)
        weights = sum(layer.weights for layer in layers)
        masked = sum(layer.masked for layer in layers)
        return cls(masked / weights if weights else 0.0, {layer.name: layer.sparsity for layer in layers})
