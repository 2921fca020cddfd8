"""What a model's output holds, by name: keys, attributes or indices as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Where a model of several outputs keeps the one that is meant, by custom of the libraries.
_MAIN = ("logits", "out")


def entries(output: Any) -> dict[str, Any]:
    """Return what `output` holds, without what is None; a tensor, a number or a text holds nothing."""
    if isinstance(output, Tensor):
        return {}
    if isinstance(output, Mapping):
        found = {str(key): value for key, value in output.items()}
    elif isinstance(output, (list, tuple)):
        # A named tuple is a tuple whose entries have names.
        names = getattr(output, "_fields", range(len(output)))
        found = {str(name): value for name, value in zip(names, output, strict=True)}
    else:
        # Logits may be a property, which no listing of an object's own attributes shows.
        names = [*getattr(output, "__dict__", ()), *getattr(output, "__slots__", ()), *_MAIN[:1]]
        found = {name: getattr(output, name, None) for name in names if not name.startswith("_")}
    return {name: value for name, value in found.items() if value is not None}


def main_name(output: Any, found: Mapping[str, Any]) -> str | None:
    """Return the name of the tensor that is meant by custom, if there is one."""
    for name in _MAIN if isinstance(output, Mapping) else _MAIN[:1]:
        if isinstance(found.get(name), Tensor):
            return name
    return first_tensor(found) if isinstance(output, (list, tuple)) else None


def first_tensor(found: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor that is no scalar; a scalar in front of it is a loss."""
    return next((name for name, value in found.items() if isinstance(value, Tensor) and value.dim()), None)


def described(output: Any) -> str:
    """Return what `output` is and holds, for messages."""
    found = entries(output)
    kind = type(output).__name__
    if not found:
        return f"{'an empty' if isinstance(output, (Mapping, list, tuple)) else 'a'} {kind}"
    return f"a {kind} with " + ", ".join(f"{name} ({_described(value)})" for name, value in found.items())


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, (list, tuple, Mapping)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
