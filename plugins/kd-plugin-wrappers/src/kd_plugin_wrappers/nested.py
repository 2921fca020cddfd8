"""Lists, tuples and dicts of tensors, as nested wrappers bind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply `function` to everything in nested lists, tuples and dicts; None stays None."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: mapped(function, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(function, each) for each in value]
    return function(value)


def leaves(value: Any) -> Iterator[Any]:
    """Yield everything in nested lists, tuples and dicts but None."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    elif value is not None:
        yield value
