"""What a balancer makes of the terms' names and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdcore.component import CheckContext, Kind
from kdcore.config.create import checked_params
from kdcore.errors import KdcoreError
from kdcore.testing.check import check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject, shown

BALANCER = {Kind.BALANCER}
# By how much a weight is changed, and how far two orders of a sum may differ.
TIMES, ROUNDING = 3.0, 1e-5


@check(
    BALANCER,
    "the weight of each term counts, or a weight of its own is refused",
    optional=True,
    after=(*BASICS, "gradient_reaches"),
)
def weights_count(subject: Subject) -> None:
    """Multiply one term's weight, and see whether the total notices."""
    usual = _total(subject, subject.given.terms)
    for name, weight in subject.given.terms.items():
        if not weight:
            continue
        found = _total(subject, {**subject.given.terms, name: TIMES * weight})
        if found is not None and usual is not None and torch.equal(found, usual):
            raise Finding(
                f"with weight {TIMES * weight:g} for the term {name} instead of {weight:g} it returned {shown(found)} "
                "as before: what a user writes as weight: has no effect. Multiply by it, or refuse a weight other than "
                "1 in the constructor (ValueError) and in the component's check="
            )


@check(
    BALANCER,
    "terms are told apart by name, and one that a model returns, with weight None, is taken",
    after=(*BASICS, "gradient_reaches"),
)
def terms_named(subject: Subject) -> None:
    """Give the terms in another order, then without a weight of their own."""
    usual = _value(subject, subject.given.terms)
    turned = _value(subject, subject.given.terms, turned=True)
    if not torch.allclose(turned, usual, rtol=ROUNDING):
        raise Finding(
            f"with the terms in another order it returned {shown(turned)} instead of {shown(usual)}: a model's own "
            "losses may come and go. Look each up by its name"
        )
    for name in subject.given.terms:
        try:
            _total(subject, {**subject.given.terms, name: None})
        except Exception as error:  # it may fail in any way; the cause is chained and named
            raise Finding(
                f"with weight None for the term {name}, as a loss has that a model returns itself, it raised "
                f"{type(error).__name__}: {error}. Take None for 1, or raise ValueError with the name"
            ) from error


def _total(subject: Subject, terms: Mapping[str, Any]) -> Tensor | None:
    """Return the total under other weights; None where they are refused."""
    own = subject.registered.component.check
    params = checked_params(subject.registered, dict(subject.given.params))
    if own is not None and list(own(params, CheckContext(terms=terms))):
        return None
    try:
        return _value(subject, terms)
    except (ValueError, KdcoreError):
        return None


def _value(subject: Subject, terms: Mapping[str, Any], *, turned: bool = False) -> Tensor:
    changed = replace(subject, example=replace(subject.given, terms=terms))
    values = changed.inputs()
    return changed.value(changed.build(), dict(reversed(values.items())) if turned else values).detach()
