"""What the schemas of the balancers cannot say; torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from kd_plugin_balancers.curve import curve_problems
from kd_plugin_balancers.names import name_problem
from kd_plugin_balancers.shares import share_problems, term_problems
from kdcore.component import CheckContext, Complaint


def check_weighted_sum(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain about weights that are not finite, and about weights for losses that nobody returns."""
    weight = params.get("model_weight", 1.0)
    members = weight if isinstance(weight, Mapping) else {"model_weight": weight or 0.0}
    for name, value in members.items():
        if not math.isfinite(value):
            yield Complaint(f"the weight of {name} must be a finite number, found {value}", "model_weight")
    if isinstance(weight, Mapping) and _known(context) and not context.model_terms:
        yield Complaint(
            f"model_weight lists {', '.join(weight)}, but no model of the stage returns losses itself "
            "(its output: model_losses reads them)",
            "model_weight",
        )


def check_static(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain about shares that do not add up or do not fit the terms."""
    weight, task_term = params.get("kd_loss_weight", 0.5), params.get("task_term")
    yield from share_problems(weight, task_term)
    if _known(context):
        yield from term_problems(weight, task_term, context.terms, more_terms=context.model_terms)


def check_uncertainty(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain about unknown terms and about weights that the variances would run away from."""
    form = params.get("form")
    yield from uncertainty_problems(context.terms)
    if not math.isfinite(params.get("init", 0.0)):
        yield Complaint(f"init must be a finite number, found {params['init']}", "init")
    if isinstance(form, Mapping) and _known(context):
        yield from _unknown(form, context, "form")


def uncertainty_problems(terms: Mapping[str, float | None]) -> Iterator[Complaint]:
    """Say which weights of terms leave a log-variance without a minimum."""
    for name, weight in terms.items():
        if weight is not None and not 0 < weight < math.inf:
            yield Complaint(
                f"uncertainty needs positive weights, but that of {name} is {weight:g}: "
                "its log-variance would fall without end; remove the term instead"
            )


def check_schedule(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain about unknown terms and curves that make no sense."""
    schedules = params.get("schedules", {})
    for name, spec in schedules.items():
        for problem in curve_problems(spec):
            yield Complaint(f"the schedule of {name}: {problem}", "schedules")
    if _known(context):
        yield from _unknown(schedules, context, "schedules")


def _unknown(names: Mapping[str, Any], context: CheckContext, param: str) -> Iterator[Complaint]:
    for name in names:
        problem = name_problem(name, context.terms, more_terms=context.model_terms)
        if problem is not None:
            yield Complaint(problem, param)


def _known(context: CheckContext) -> bool:
    # Built by hand there is no stage to look at; the constructor then checks the terms it is given.
    return bool(context.terms) or context.model_terms
