"""Which distributions offer plugins, and what a loaded plugin offers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import importlib_metadata
import pluggy

from kdcore import hookspecs
from kdcore.component import Component, Kind
from kdcore.errors import suggestion

_HOOKS = {kind.hook: kind for kind in Kind}


@dataclass(frozen=True)
class Provenance:
    """Who offers a component."""

    distribution: str
    version: str
    plugin: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


def installed() -> Iterator[tuple[Provenance, Callable[[], Any]]]:
    """Yield who offers each installed plugin and how it is loaded.

    `importlib_metadata.entry_points` would do, but it parses every distribution's metadata as an
    e-mail, and one malformed file of any package would hide all plugins.
    """
    seen = set()
    for distribution in importlib_metadata.distributions():
        try:
            if hookspecs.ENTRY_POINT_GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            points = list(distribution.entry_points.select(group=hookspecs.ENTRY_POINT_GROUP))
        except Exception as error:  # the fault of one distribution, and reported as such
            name, version = _name_and_version(distribution.read_text)
            yield Provenance(name, version, name), functools.partial(_fail, error)
            continue
        name, version = _name_and_version(distribution.read_text)
        # A distribution may stand on the path twice; imports find the first.
        key = normalized(name)
        if key not in seen:
            seen.add(key)
            for point in points:
                yield Provenance(name, version, point.name), point.load


def normalized(name: str) -> str:
    """Return a distribution's name in the spelling that package indexes compare."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _name_and_version(read_text: Callable[[str], str | None]) -> tuple[str, str]:
    headers = (read_text("METADATA") or read_text("PKG-INFO") or "").partition("\n\n")[0]
    fields = dict(line.split(": ", 1) for line in headers.splitlines() if line.startswith(("Name: ", "Version: ")))
    return fields.get("Name", "(unnamed)").strip(), fields.get("Version", "").strip()


def _fail(error: Exception) -> None:
    raise error


def offered(manager: pluggy.PluginManager, plugin: Any) -> Iterator[tuple[Kind, Component]]:
    """Call the hooks of a registered plugin and yield each component with its kind.

    Raises:
        LookupError: it implements a hook that does not exist.
        TypeError: a hook returns something else than a list of Components.
        ValueError: it offers one kind and name twice.
    """
    seen = set()
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            known = [kind.hook for kind in Kind]
            raise LookupError(f"there is no hook {caller.name!r}; {suggestion(caller.name, known, noun='hooks')}")
        kind = _HOOKS.get(caller.name)
        if kind is None:
            continue
        implementation = next(each for each in caller.get_hookimpls() if each.plugin is plugin)
        components = implementation.function()
        if not isinstance(components, (list, tuple)):
            raise TypeError(f"hook {kind.hook!r} must return a list of Components, not {type(components).__name__}")
        for component in components:
            if not isinstance(component, Component):
                raise TypeError(f"hook {kind.hook!r} must return Components, found {type(component).__name__}")
            if (kind, component.name) in seen:
                raise ValueError(f"it offers the {kind.title} {component.name!r} twice")
            seen.add((kind, component.name))
            yield kind, component
