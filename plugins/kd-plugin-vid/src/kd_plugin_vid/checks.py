"""What a JSON Schema cannot say about the variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import CheckContext, Complaint


def check_regressor(params: Mapping[str, Any], context: CheckContext) -> Iterator[Complaint]:
    """Yield a complaint where the variance cannot start where it is asked to."""
    variance, eps = params["initial_variance"], params["eps"]
    if not variance > eps:
        yield Complaint(f"initial_variance is {variance} and eps is {eps}; it must be above eps", "initial_variance")
