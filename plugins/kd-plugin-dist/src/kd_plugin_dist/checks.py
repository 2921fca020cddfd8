"""What the schema cannot say about the params of `dist` and `dist_plus`; free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint

NOTHING = "beta and gamma are both 0, which teaches nothing: give one of them a weight above 0, or leave the term out"
NOTHING_PLUS = (
    "beta, gamma, iota and kappa are all 0, which teaches nothing: give one of them a weight above 0, "
    "or leave the term out"
)


def dist(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Refuse a loss of which every part is left out."""
    if not any(params.get(name, 1) for name in ("beta", "gamma")):
        yield Complaint(NOTHING)


def dist_plus(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Refuse a loss of which every part is left out."""
    if not any(params.get(name, 1) for name in ("beta", "gamma", "iota", "kappa")):
        yield Complaint(NOTHING_PLUS)
