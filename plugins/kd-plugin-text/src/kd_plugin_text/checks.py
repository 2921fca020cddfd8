"""What a JSON Schema cannot say about the model's sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint


def check_transformer(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Yield a complaint where the heads do not share `dim` evenly."""
    if params["dim"] % params["heads"]:
        yield Complaint(
            f"dim is {params['dim']} and heads is {params['heads']}; dim must be a multiple of heads", "dim"
        )
