"""What the schema cannot say about the params of `dkd`; free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint

NOTHING = "alpha and beta are both 0, which teaches nothing: give one of them a weight above 0, or leave the term out"


def dkd(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Refuse a loss of which every part is left out."""
    if not (params.get("alpha", 1) or params.get("beta", 1)):
        yield Complaint(NOTHING)
