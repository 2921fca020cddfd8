"""Whether tensors were changed in place since somebody looked at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Versions = list[tuple[Tensor, int]]


def leaves(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)


def versions(value: Any) -> Versions:
    """Return each tensor in `value` with how often it was changed in place so far."""
    # Compilers trace through hooks, and tensors of inference mode have no counter.
    if torch.compiler.is_compiling():
        return []
    if isinstance(value, Tensor):
        return [] if value.is_inference() else [(value, value._version)]
    return [(tensor, tensor._version) for tensor in leaves(value) if not tensor.is_inference()]


def changed(seen: Versions) -> bool:
    """Whether a tensor was changed in place since `versions` looked."""
    for tensor, version in seen:  # noqa: SIM110 - a generator would cost more than the loop, in every step
        if tensor._version != version:
            return True
    return False


def cloned(value: Any) -> Any:
    """Copy every tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: cloned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [cloned(item) for item in value]
    return value
