"""What the schema cannot say about the params of `rkd`; free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint

NOTHING = (
    "distance_weight and angle_weight are both 0, which teaches nothing: give one of them a weight above 0, "
    "or leave the term out"
)


def rkd(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Refuse a loss of which every part is left out."""
    if not (params.get("distance_weight", 1) or params.get("angle_weight", 1)):
        yield Complaint(NOTHING)
