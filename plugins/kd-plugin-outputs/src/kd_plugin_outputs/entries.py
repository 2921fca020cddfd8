"""What a model's output holds, by name: keys, attributes or indices as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Where a model of several outputs keeps the one that is meant, by custom of the libraries.
_MAIN = ("logits", "out")


def entries(output: Any) -> dict[str, Any] | None:
    """Return what `output` holds, without what is None; or None if it holds nothing that has a name."""
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        found = {str(key): value for key, value in output.items()}
    elif isinstance(output, (list, tuple)):
        # A named tuple is a tuple whose entries have names.
        names = getattr(output, "_fields", range(len(output)))
        found = {str(name): value for name, value in zip(names, output, strict=True)}
    elif hasattr(output, "__dict__"):
        found = {name: value for name, value in vars(output).items() if not name.startswith("_")}
    elif hasattr(output, "__slots__"):
        found = {name: getattr(output, name, None) for name in output.__slots__ if not name.startswith("_")}
    else:
        return None
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
    if found is None:
        return f"a {kind}"
    held = ", ".join(f"{name} ({_described(value)})" for name, value in found.items())
    return f"a {kind} with {held}" if held else f"an empty {kind}"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, (list, tuple, Mapping)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
