"""Reads the one entry that the config names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kd_plugin_outputs.checks import item_problem
from kd_plugin_outputs.entries import described, entries
from kdcore.contracts import Extracted
from kdcore.errors import suggestion


class ItemExtractor:
    """Take one entry of the output, and name all others as `auto` does.

    Arguments:
        key: the key of a dict, or the attribute of an object.
        index: the place in a tuple or list; -1 is the last.

    Raises:
        ValueError: not exactly one of the two is given, the output has no such entry, or it is
            not a tensor.
    """

    def __init__(self, key: str | None = None, index: int | None = None) -> None:
        problem = item_problem(key, index)
        if problem is not None:
            raise ValueError(problem)
        self.key = key
        self.index = index

    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        """Return what `output` means."""
        found = entries(output)
        name = self._name(output)
        if name not in found and self.index is None and not isinstance(output, Mapping) and hasattr(output, name):
            found[name] = getattr(output, name)  # a property
        if name not in found:
            what = f"key {self.key!r}" if self.index is None else f"index {self.index}"
            raise ValueError(
                f"the output is {described(output)}; it has no {what}: {suggestion(str(name), found, noun='entries')}"
            )
        value = found.pop(name)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"entry {name} of the output is a {type(value).__name__}, not a tensor; take a tensor here, and "
                f"address the inside of this one as <model>#{name}#..."
            )
        return Extracted(value, found)

    def _name(self, output: Any) -> str:
        if self.index is None:
            return str(self.key)
        length = len(output) if isinstance(output, (list, tuple)) else 0
        if not -length <= self.index < length:
            raise ValueError(f"the output is {described(output)}; it has no index {self.index}")
        return str(getattr(output, "_fields", range(length))[self.index])
