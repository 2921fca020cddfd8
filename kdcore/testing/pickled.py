"""Copies by way of pickle, as another process receives them."""

from __future__ import annotations

import pickle
from typing import TypeVar

T = TypeVar("T")


def pickled(value: T) -> T:
    """Return a copy that went through pickle."""
    copy: T = pickle.loads(pickle.dumps(value))  # noqa: S301 - it was pickled here
    return copy
