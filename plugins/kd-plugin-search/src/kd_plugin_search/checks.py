"""What schemas cannot say about the searchers; torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint


def check_grid(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Complain about a space that has no end."""
    if context.space is not None and context.space.size() is None:
        endless = ", ".join(context.space.continuous())
        yield Complaint(
            f"a grid needs a finite space, but {endless} can be any number of a range: give the range a step, "
            "list its choices, or choose another searcher"
        )
