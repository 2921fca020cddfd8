"""The data around a component's instances: what its classes and modules hold."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

FOREIGN = ("torch", "builtins", "typing", "abc")


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


def places(built: nn.Module) -> list[Place]:
    """Return the names in the classes of everything in `built`, in their modules and in those of its package."""
    classes = {base for module in built.modules() for base in type(module).__mro__ if _ours(base.__module__)}
    homes = {each.__module__: sys.modules.get(each.__module__) for each in classes}
    package = getattr(sys.modules.get(type(built).__module__), "__package__", "")
    if package:
        homes.update({name: home for name, home in [*sys.modules.items()] if f"{name}.".startswith(f"{package}.")})
    return _sorted([*((kind, kind.__module__) for kind in classes), *((home, name) for name, home in homes.items())])


def places_in(package: str) -> list[Place]:
    """Return the names in a package's modules and in their classes."""
    return _sorted(owners(package))


def owners(package: str) -> list[tuple[Any, str]]:
    """Return a package's modules and the classes in them, each with the module's name."""
    found: list[tuple[Any, str]] = []
    for module, home in list(sys.modules.items()):
        if f"{module}.".startswith(f"{package}."):
            inside = [each for each in vars(home).values() if getattr(each, "__module__", None) == module]
            found += [(home, module), *((each, module) for each in inside if isinstance(each, type))]
    return found


def _sorted(holders: list[tuple[Any, str]]) -> list[Place]:
    found = [
        Place(owner, name, module)
        for owner, module in holders
        if owner is not None and _ours(module)
        for name in _data_names(vars(owner))
    ]
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
