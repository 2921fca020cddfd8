"""What the schema cannot say about the params of `sskd`; free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint

NOTHING = "loss_weights are all 0, which teaches nothing: give one of them a weight above 0, or leave the term out"


def sskd(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Refuse a loss of which every part is left out."""
    if not any(params.get("loss_weights", (1,))):
        yield Complaint(NOTHING)
