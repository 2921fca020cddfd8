"""Tensors in nested lists, tuples and mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in `value`."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors(each)


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to every tensor in `value`; everything else stays as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(function, each) for each in value]
    return value


def floating(value: Any) -> list[Tensor]:
    """Return the tensors in `value` that can have a gradient."""
    return [each for each in tensors(value) if each.is_floating_point()]
