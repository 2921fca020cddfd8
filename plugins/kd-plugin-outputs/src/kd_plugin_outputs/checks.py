"""What the schema of `item` cannot say; torch-free, and used by the constructor too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint


def item_problem(key: str | None, index: int | None) -> str | None:
    """Say that not exactly one of key and index is given, if so."""
    if (key is None) != (index is None):
        return None
    found = "neither" if key is None else f"key {key!r} and index {index}"
    return f"item takes either a key or an index, found {found}: write {{key: logits}} or {{index: 0}}"


def check_item(params: Mapping[str, Any], context: CheckContext) -> Iterable[Complaint]:
    """Complain unless exactly one of key and index is given."""
    problem = item_problem(params.get("key"), params.get("index"))
    return [] if problem is None else [Complaint(problem, "key" if params.get("key") is not None else None)]
