"""What the schema cannot say about the params of `self_kd`; free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint

NO_TEMPERATURE = "temperature is for cross_entropy and kl, not for l2, which compares features as they are"


def self_kd(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Refuse a temperature that nothing would use."""
    if params.get("divergence") == "l2" and params.get("temperature", 1) != 1:
        yield Complaint(NO_TEMPERATURE, "temperature")
