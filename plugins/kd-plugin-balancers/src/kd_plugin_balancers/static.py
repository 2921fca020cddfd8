"""Fixed shares for distillation and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kd_plugin_balancers.shares import share_problems, shares, term_problems
from kd_plugin_balancers.terms import Terms, refuse, weighted_total


class StaticBalancer(nn.Module):
    r"""Give the distillation terms fixed shares and the task term the rest.

    For a number w: `w sum_i L_i + (1 - w) L_task`. For a list: `sum_i w_i L_i + (1 - sum_i w_i) L_task`.
    The distillation terms are all terms but the task term, in the order of the config.

    The static loss balancer of NVIDIA Model Optimizer. There a number is accepted for one
    distillation term only, in spite of its documentation, and what no term gets is dropped.

    Arguments:
        terms: the names of the terms, with weight 1, or None for a loss that a model returns.
        kd_loss_weight: a number, or one for each distillation term, from 0 to 1; the sum is at
            most 1, with a tolerance of 1e-6.
        task_term: the name of the term that gets the rest; not needed where the sum is 1.

    Raises:
        ValueError: the numbers are out of range or do not fit the terms; the task term is unknown,
            or missing while something is left for it; a term has a weight of its own.
    """

    def __init__(
        self,
        terms: Mapping[str, float | None],
        kd_loss_weight: float | Sequence[float] = 0.5,
        task_term: str | None = None,
    ) -> None:
        super().__init__()
        self.terms = Terms(terms)
        fitting = term_problems(kd_loss_weight, task_term, terms, more_terms=False)
        refuse([*share_problems(kd_loss_weight, task_term), *fitting])
        self.weights = shares(kd_loss_weight, task_term, terms)

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the balanced sum of the scalars in `terms`."""
        return weighted_total(self.terms.complete(terms, training=self.training), self.weights)

    def extra_repr(self) -> str:
        """Show the weights."""
        return ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items())
