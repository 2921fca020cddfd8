"""Which distributions offer plugins, and what a loaded plugin offers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import importlib_metadata
import pluggy

from kdcore import hookspecs
from kdcore.component import Component, Kind
from kdcore.errors import suggestion

_HOOKS = {kind.hook: kind for kind in Kind}
_MARK = f"{hookspecs.PROJECT}_impl"


@dataclass(frozen=True)
class Provenance:
    """Who offers a component."""

    distribution: str
    version: str
    plugin: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, which looks at every attribute of a plugin with care, and so slowly."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the options of a hook implementation, None if the attribute is none."""
        if not isinstance(plugin, ModuleType):
            return super().parse_hookimpl_opts(plugin, name)
        # The attributes of a module are no descriptors, and its hooks are functions.
        function = vars(plugin).get(name)
        return getattr(function, _MARK, None) if isinstance(function, FunctionType) else None


def installed() -> Iterator[tuple[Provenance, Callable[[], Any]]]:
    """Yield who offers each installed plugin and how it is loaded.

    `importlib_metadata.entry_points` would do, but it parses every distribution's metadata as an
    e-mail, and one malformed file of any package would hide all plugins.
    """
    seen = set()
    for distribution in importlib_metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or hookspecs.ENTRY_POINT_GROUP not in text:
                continue
            points = list(_entry_points(text))
        except ValueError as error:  # the fault of one distribution (its encoding too), and reported as such
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


def _entry_points(text: str) -> Iterator[importlib_metadata.EntryPoint]:
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == hookspecs.ENTRY_POINT_GROUP and line and line[0] not in "#;":
            name, equals, value = map(str.strip, line.partition("="))
            if not (name and equals and value):
                raise ValueError(f"{line!r} in its entry_points.txt is not of the form name = module")
            yield importlib_metadata.EntryPoint(name=name, value=value, group=section)


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
        TypeError: a hook returns something else than a list of Components, or a submodule took its name.
        ValueError: it offers one kind and name twice.
    """
    for hook in _HOOKS:
        # Importing `package.models` sets that attribute, and the hook function of the name is gone.
        if isinstance(plugin, ModuleType) and isinstance(vars(plugin).get(hook), ModuleType):
            raise TypeError(f"its submodule {hook!r} has the name of a hook and hides it; rename the file")
    seen = set()
    for caller in manager.get_hookcallers(plugin) or ():
        hook = caller.name
        if not hasattr(hookspecs, hook):
            raise LookupError(f"there is no hook {hook!r}; {suggestion(hook, _HOOKS, noun='hooks')}")
        kind = _HOOKS.get(hook)
        if kind is None:
            continue
        components = next(each.function for each in reversed(caller.get_hookimpls()) if each.plugin is plugin)()
        if not isinstance(components, (list, tuple)):
            raise TypeError(f"hook {kind.hook!r} must return a list of Components, not {type(components).__name__}")
        for component in components:
            if not isinstance(component, Component):
                raise TypeError(f"hook {kind.hook!r} must return Components, found {type(component).__name__}")
            if (kind, component.name) in seen:
                raise ValueError(f"it offers the {kind.title} {component.name!r} twice")
            seen.add((kind, component.name))
            yield kind, component
