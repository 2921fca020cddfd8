"""Linear layers and small perceptrons along the last dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from kd_plugin_adapters.sized import SizedAdapter, check_sizes, facts_of_x, in_size, out_size
from kdcore.contracts import Facts

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class LinearAdapter(SizedAdapter):
    """A linear layer along the last dimension.

        y = x W^T + b

    Arguments:
        in_features: size of x's last dimension; taken from x unless given.
        out_features: size of the output's; taken from `like` unless given.
        bias: whether b is there.

    Called with x (..., in_features); returns (..., out_features).
    """

    def __init__(self, in_features: int | None = None, out_features: int | None = None, bias: bool = True) -> None:
        super().__init__("linear", in_features=in_features, out_features=out_features)
        check_sizes(in_features=in_features, out_features=out_features)
        self.bias = bias
        if in_features is not None and out_features is not None:
            self.adopt(self.given)

    def infer(self, facts: Facts) -> dict[str, Any]:
        """Return the features of x and `like`."""
        return _features(self, facts)

    def build(self, in_features: int, out_features: int) -> nn.Module:
        """Return the layer."""
        return nn.Linear(in_features, out_features, self.bias)


class MLPAdapter(SizedAdapter):
    """Linear layers along the last dimension with an activation between them.

    Arguments:
        in_features: size of x's last dimension; taken from x unless given.
        out_features: size of the output's; taken from `like` unless given.
        hidden_features: the size of the hidden layer, or a list of them; by default one layer as wide as
            the wider of both ends.
        activation: `relu`, `gelu`, `silu` or `tanh`.
        bias: whether the layers add one.

    Called with x (..., in_features); returns (..., out_features).
    """

    def __init__(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        hidden_features: int | Sequence[int] | None = None,
        activation: str = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__("mlp", in_features=in_features, out_features=out_features)
        self.hidden = [hidden_features] if isinstance(hidden_features, int) else hidden_features
        check_sizes(in_features=in_features, out_features=out_features)
        for size in self.hidden or ():
            check_sizes(hidden_features=size)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, found {activation!r}")
        self.activation = activation
        self.bias = bias
        if in_features is not None and out_features is not None:
            self.adopt(self.given)

    def infer(self, facts: Facts) -> dict[str, Any]:
        """Return the features of x and `like`."""
        return _features(self, facts)

    def build(self, in_features: int, out_features: int) -> nn.Module:
        """Return the layers, the activation between them."""
        hidden = [max(in_features, out_features)] if self.hidden is None else self.hidden
        body = nn.Sequential()
        for before, after in pairwise([in_features, *hidden, out_features]):
            if len(body):
                body.append(ACTIVATIONS[self.activation]())
            body.append(nn.Linear(before, after, self.bias))
        return body


def _features(adapter: SizedAdapter, facts: Facts) -> dict[str, Any]:
    given = adapter.given
    return {
        "in_features": in_size(adapter.kind, "in_features", given["in_features"], facts_of_x(facts), -1),
        "out_features": out_size(adapter.kind, "out_features", given["out_features"], facts.like, -1),
    }
