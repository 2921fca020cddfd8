"""What the schema cannot say about the params of `srd_projector`; free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint

NO_LAYER = "out_features is for linear: true; without a linear layer the features are those of x"


def srd_projector(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Refuse a size for the linear layer where there is none."""
    if params.get("linear") is False and params.get("out_features") is not None:
        yield Complaint(NO_LAYER, "out_features")
