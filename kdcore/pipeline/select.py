"""Reading an element out of a tuple, dict or ModelOutput."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdcore.errors import AddressError, suggestion


def select(value: Any, keys: tuple[str | int, ...], address: object) -> Any:
    """Follow `keys` into `value`; raises AddressError naming what is there instead."""
    for key in keys:
        value = _element(value, key, address)
    return value


def select_argument(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], keys: tuple[str | int, ...], address: object
) -> Any:
    """Return an argument of a call: the first, or the one that the first key names or counts."""
    if not keys:
        if not args and not kwargs:
            raise AddressError(address, "the module was called without arguments")
        if args:
            return args[0]
        # The first argument of forward, in whatever order the caller named them.
        first = next(iter(inspect.signature(module.forward).parameters), None)
        return kwargs[first] if first is not None and first in kwargs else next(iter(kwargs.values()))
    return select(_argument(module, args, kwargs, keys[0], address), keys[1:], address)


def _argument(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str | int, address: object
) -> Any:
    if isinstance(key, int):
        if not -len(args) <= key < len(args):
            raise AddressError(address, f"the module was called with {len(args)} positional arguments")
        return args[key]
    if key in kwargs:
        return kwargs[key]
    names = list(inspect.signature(module.forward).parameters)
    if key in names and names.index(key) < len(args):
        return args[names.index(key)]
    raise AddressError(address, f"the call has no argument {key!r}", repair=suggestion(key, [*names, *kwargs]))


def _element(value: Any, key: str | int, address: object) -> Any:
    if isinstance(value, Tensor):
        raise AddressError(
            address,
            f"'#{key}' looks into a tensor of shape {tuple(value.shape)}",
            repair="keys look into tuples and dicts; the adapter `select` indexes tensors",
        )
    if isinstance(value, Mapping):
        # Keys of a dict may be numbers written as text, and the other way round.
        for candidate in (key, str(key)):
            if candidate in value:
                return value[candidate]
        raise AddressError(
            address, f"there is no key {key!r}", repair=suggestion(str(key), map(str, value), noun="keys")
        )
    if isinstance(value, (list, tuple)) and isinstance(key, int):
        if not -len(value) <= key < len(value):
            raise AddressError(address, f"there is no element {key}; the {type(value).__name__} has {len(value)}")
        return value[key]
    if isinstance(key, str) and hasattr(value, key):
        return getattr(value, key)
    raise AddressError(address, f"'#{key}' does not fit a value of type {type(value).__name__}")
