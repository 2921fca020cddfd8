"""Weights learned as the uncertainty of each term."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd_plugin_balancers.checks import uncertainty_problems
from kd_plugin_balancers.names import name_problem
from kd_plugin_balancers.terms import Terms, refuse

# What the negative log-likelihood of each kind divides a loss by, beside the variance.
_FACTORS = {"classification": 1.0, "regression": 0.5}


class UncertaintyBalancer(nn.Module):
    r"""Divide each term by a learned variance, and pay for a large one.

    `sum_i a_i exp(-s_i) w_i L_i + s_i / 2`, with s_i = log sigma_i^2 learned, w_i the weight of the
    config, and a_i = 1 for a classification term (a cross entropy: sigma^2 is the temperature of its
    softmax), 1/2 for a regression term (a squared error: sigma^2 is the variance of its Gaussian).

    Kendall, Gal, Cipolla: Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics, 2018, equations 7 and 10; s_i instead of sigma_i as they advise in section 3.2.
    The weights w_i are ours: they shift the optimum of s_i by log w_i, and at the start scale L_i.

    Terms must not be negative, and the log-variances need no weight decay.

    Arguments:
        terms: the positive weight of each term; None, for a loss that a model returns, stands for 1.
        init: every s_i at the start.
        form: `classification`, `regression`, or a mapping of terms to these; terms that it does not
            name are classification terms.

    Raises:
        ValueError: a weight is not positive, or `form` names an unknown term or kind.
    """

    factors: Tensor

    def __init__(
        self, terms: Mapping[str, float | None], init: float = 0.0, form: str | Mapping[str, str] = "classification"
    ) -> None:
        super().__init__()
        self.terms = Terms(terms)
        refuse(list(uncertainty_problems(terms)))
        if not math.isfinite(init):
            raise ValueError(f"init must be a finite number, found {init}")
        forms = _forms(form, terms)
        factors = [weight * _FACTORS[forms[name]] for name, weight in zip(terms, self.terms.weights, strict=True)]
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.log_variances = nn.Parameter(torch.full((len(factors),), float(init)))

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the balanced sum of the scalars in `terms`."""
        losses = self.terms.stacked(terms, training=self.training)
        return (self.factors * torch.exp(-self.log_variances) * losses + self.log_variances / 2).sum()

    def extra_repr(self) -> str:
        """Show the terms."""
        return ", ".join(self.terms.names)


def _forms(form: str | Mapping[str, str], terms: Mapping[str, float | None]) -> dict[str, str]:
    forms = dict.fromkeys(terms, form) if isinstance(form, str) else dict.fromkeys(terms, "classification") | dict(form)
    for name, kind in forms.items():
        problem = name_problem(name, terms, more_terms=False)
        if problem is not None:
            raise ValueError(f"form: {problem}")
        if kind not in _FACTORS:
            raise ValueError(f"the form of {name} must be 'classification' or 'regression', found {kind!r}")
    return forms
