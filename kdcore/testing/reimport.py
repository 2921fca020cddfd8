"""A second import of a component's package, beside the first."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

from kdcore.plugins import Registered
from kdcore.testing.subject import Subject

# Of these nothing is the author's, and a second torch would be another one.
SHARED = ("torch", "torchvision", "transformers", "kdcore", "builtins", "__main__")


@contextlib.contextmanager
def afresh(subject: Subject) -> Iterator[Subject]:
    """Yield the subject with its factory from a second import of its package, in which nothing was used yet.

    The first import is put back afterwards. Where there can be no second one, as for a class within a function or a
    package that registers something of which there is only one, the subject itself is yielded.
    """
    factory = subject.registered.factory()
    module, path = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "<")
    package = str(module).split(".", maxsplit=1)[0]
    if module is None or "<" in path or package in SHARED:
        yield subject
        return
    first = _forget(package)
    try:
        yield replace(subject, registered=_replaced(subject.registered, module, path))
    finally:
        _forget(package)
        sys.modules.update(first)


def _forget(package: str) -> dict[str, ModuleType]:
    """Take a package's modules out of those that are imported, and return them."""
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}


def _replaced(registered: Registered, module: str, path: str) -> Registered:
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except Exception:  # it was imported once, so whatever it raises now is about being imported twice
        return registered
    return replace(registered, component=replace(registered.component, factory=found))
