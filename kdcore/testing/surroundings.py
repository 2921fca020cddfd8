"""The data around a component's instances: what its classes and modules hold, and what fills it."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

FOREIGN = ("torch", "builtins", "typing", "abc")
# Exactly these: what a subclass does on clear or copy is its own affair.
CONTAINERS = (dict, list, set, OrderedDict, defaultdict)
DEPTH = 4


@dataclass(frozen=True)
class Place:
    """A name in a class or module."""

    owner: Any
    name: str
    module: str

    @property
    def shown(self) -> str:
        """How a message names it."""
        return f"{getattr(self.owner, '__qualname__', self.module)}.{self.name}"

    @property
    def value(self) -> Any:
        """What stands there now."""
        return getattr(self.owner, self.name, None)

    @property
    def content(self) -> bytes | None:
        """What stands there as bytes, tensors by their numbers; None where it cannot be compared."""
        return content(self.value)

    @contextlib.contextmanager
    def emptied(self) -> Iterator[None]:
        """Take away what stands there, as before its first use, and put it back."""
        kept = self.value
        held = copy.copy(kept) if type(kept) in CONTAINERS else kept
        self._empty(kept)
        try:
            yield
        finally:
            if type(kept) in CONTAINERS:
                kept.clear()
                (kept.extend if isinstance(kept, list) else kept.update)(held)
            setattr(self.owner, self.name, kept)

    def _empty(self, kept: Any) -> None:
        if type(kept) in CONTAINERS:
            kept.clear()
        else:
            setattr(self.owner, self.name, None)


def places(built: nn.Module) -> list[Place]:
    """Return the names in the classes of everything in `built`, in their modules and in those of its package."""
    classes = {base for module in built.modules() for base in type(module).__mro__ if _ours(base.__module__)}
    homes = {each.__module__: sys.modules.get(each.__module__) for each in classes}
    package = getattr(sys.modules.get(type(built).__module__), "__package__", "")
    if package:
        homes.update({name: home for name, home in [*sys.modules.items()] if f"{name}.".startswith(f"{package}.")})
    found = [Place(kind, name, kind.__module__) for kind in classes for name in _data_names(vars(kind))]
    for module, home in homes.items():
        if home is not None and _ours(module):
            found += [Place(home, name, module) for name in _data_names(vars(home))]
    return sorted(found, key=lambda each: each.shown)


def contents(found: list[Place]) -> dict[str, bytes]:
    """Return what stands at each place, those left out that cannot be compared."""
    written = {each.shown: each.content for each in found}
    return {where: value for where, value in written.items() if value is not None}


def belongings(one: nn.Module, other: nn.Module) -> dict[str, bytes]:
    """Return the mutable data that both instances refer to."""
    found = {}
    for (name, first), second in zip(one.named_modules(), other.modules(), strict=False):
        theirs = {id(value) for value in vars(second).values()}
        mine = [key for key in _data_names(vars(first)) if id(vars(first)[key]) in theirs]
        prefix = f"{name}." if name else ""
        found.update({f"{prefix}{key}": written for key in mine if (written := content(vars(first)[key])) is not None})
    return found


def filled_by_data(found: list[Place], use: Callable[[int], object]) -> str | None:
    """Return at which place the first use leaves what depends on the batch, which `use` takes by number.

    Each place that holds a number is emptied for two first uses. One that is read before it is filled is a constant.
    """
    for place in found:
        if not _holds_numbers(place.value):
            continue
        left = []
        for number in (0, 1):
            with contextlib.suppress(Exception), place.emptied():
                use(number)
                left.append(place.content if _holds_numbers(place.value) else None)
        if len(left) == 2 and None not in left and left[0] != left[1]:
            return place.shown
    return None


def content(value: Any) -> bytes | None:
    """Return `value` as bytes, its tensors by their numbers, or None where it cannot be pickled."""
    file = io.BytesIO()
    try:
        _Pickler(file).dump(value)
    except Exception:  # what cannot be pickled cannot be compared; nothing is lost but this look at it
        return None
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Writes tensors by their numbers: where these lie in memory is chance."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        plain = value.detach().cpu().contiguous().reshape(-1)
        return str, (f"{value.dtype} {tuple(value.shape)} {plain.view(torch.uint8).numpy().tobytes().hex()}",)


def _ours(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] not in FOREIGN


def _data_names(names: Mapping[str, Any]) -> list[str]:
    kinds = (ModuleType, property, staticmethod, classmethod)
    return [
        name
        for name, value in names.items()
        if not (name.startswith("__") or callable(value) or isinstance(value, kinds))
    ]


def _holds_numbers(value: Any, depth: int = 0) -> bool:
    if depth > DEPTH:
        return False
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        return any(_holds_numbers(each, depth + 1) for each in value)
    return isinstance(value, (Tensor, float, int)) and not isinstance(value, bool)
