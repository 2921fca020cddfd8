"""The shares of `static`: who gets how much, and what is wrong with that; torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from kd_plugin_balancers.names import name_problem
from kdcore.component import Complaint

# Decimal weights that sum to 1 on paper may miss it by rounding.
TOLERANCE = 1e-6

Weight = float | Sequence[float]


def shares(kd_loss_weight: Weight, task_term: str | None, terms: Mapping[str, float | None]) -> dict[str, float]:
    """Return the weight of every term, for params without problems."""
    rest = max(0.0, 1.0 - math.fsum(_members(kd_loss_weight)))
    names = [name for name in terms if name != task_term]
    weights = list(kd_loss_weight) if isinstance(kd_loss_weight, Sequence) else [kd_loss_weight] * len(names)
    return dict(zip(names, weights, strict=True)) | ({} if task_term is None else {task_term: rest})


def share_problems(kd_loss_weight: Weight, task_term: str | None) -> Iterator[Complaint]:
    """Say what is wrong with the numbers, whatever the terms are."""
    members = _members(kd_loss_weight)
    outside = [weight for weight in members if not 0 <= weight <= 1]  # NaN too
    total = math.fsum(members)
    if outside:
        found = ", ".join(map(str, outside))
        yield Complaint(f"every kd_loss_weight must lie between 0 and 1, found {found}", "kd_loss_weight")
    elif total > 1 + TOLERANCE:
        yield Complaint(f"kd_loss_weight sums to {total:g}; the sum may be at most 1", "kd_loss_weight")
    elif task_term is None and 1 - total > TOLERANCE:
        yield Complaint(
            f"kd_loss_weight sums to {total:g} and no term gets the other {1 - total:g}: "
            "name the task term (task_term: ...), or let kd_loss_weight sum to 1",
            "task_term",
        )


def term_problems(
    kd_loss_weight: Weight, task_term: str | None, terms: Mapping[str, float | None], *, more_terms: bool
) -> Iterator[Complaint]:
    """Say what does not fit the terms; `more_terms` if models may return some that are not known yet."""
    problem = None if task_term is None else name_problem(task_term, terms, more_terms=more_terms)
    if problem is not None:
        yield Complaint(problem, "task_term")
    for name, weight in terms.items():
        if weight is None and name != task_term:
            yield Complaint(
                f"static has no share for {name}, which the model itself returns: make it the task_term, "
                "or use weighted_sum",
                "task_term",
            )
        elif weight is not None and weight != 1:
            yield Complaint(f"static sets the weights itself: leave the weight of {name} at 1, found {weight:g}")
    names = [name for name in terms if name != task_term]
    if not names:
        yield Complaint("there is no distillation term besides the task term", "task_term")
    elif problem is None and isinstance(kd_loss_weight, Sequence) and len(kd_loss_weight) != len(names):
        yield Complaint(
            f"kd_loss_weight has {len(kd_loss_weight)} entries but there are {len(names)} distillation terms: "
            + ", ".join(names),
            "kd_loss_weight",
        )


def _members(kd_loss_weight: Weight) -> Sequence[float]:
    return kd_loss_weight if isinstance(kd_loss_weight, Sequence) else [kd_loss_weight]
