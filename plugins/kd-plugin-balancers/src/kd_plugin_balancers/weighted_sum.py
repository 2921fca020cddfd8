"""The weighted sum of the terms."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from kd_plugin_balancers.names import model_weights
from kd_plugin_balancers.terms import Terms, weighted_total


class WeightedSumBalancer(nn.Module):
    r"""Add up the terms, each times its weight.

    `sum_i w_i L_i + sum_k m_k M_k`, with L_i the terms of the config and M_k the losses that models
    return themselves.

    Arguments:
        terms: the weight of each term; None marks a loss that a model returns, `<model>.<key>`.
        model_weight: a finite number for all losses that models return, or one for each by its key
            or by `<model>.<key>`; 0 and None leave them out.

    Raises:
        ValueError: `model_weight` and the models do not name the same losses, no term is left, or
            the terms of a step are not those of `terms`.
    """

    def __init__(
        self, terms: Mapping[str, float | None], model_weight: Mapping[str, float] | float | None = 1.0
    ) -> None:
        super().__init__()
        self.terms = Terms(terms)
        returned = model_weights(model_weight, self.terms.returned)
        weights = {name: returned.get(name) if weight is None else weight for name, weight in terms.items()}
        self.weights = {name: weight for name, weight in weights.items() if weight is not None}
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name} must be a finite number, found {weight}")
        if not self.weights:
            raise ValueError(f"model_weight leaves out all terms ({', '.join(terms)}); nothing is left to train on")

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the scalars in `terms`."""
        return weighted_total(self.terms.complete(terms, training=self.training), self.weights)

    def extra_repr(self) -> str:
        """Show the weights."""
        return ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items())
