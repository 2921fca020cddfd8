"""Discovery of plugins, isolation of broken ones, lookup and provenance."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from kdcore import hookspecs, signatures
from kdcore.component import Component, Input, Kind, Paper
from kdcore.discovery import PluginManager, Provenance, installed, normalized, offered
from kdcore.errors import PluginError, nearest, suggestion
from kdcore.schema_file import read_schema

DISABLE_VARIABLE = "KDCORE_DISABLE_PLUGINS"
# What the module of a plugin file is called, before the file's own name.
FILE_MODULE = "kdcore_plugin_file_"


@dataclass(frozen=True)
class Broken:
    """A plugin, or one component of it, that cannot be used, and why."""

    provenance: Provenance
    reason: str
    kind: Kind | None = None
    name: str | None = None

    def __str__(self) -> str:
        what = f"{self.kind.title} {self.name!r} of {self.provenance}" if self.kind else f"plugin {self.provenance}"
        return f"{what}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Registered:
    """A component together with who offers it."""

    kind: Kind
    component: Component
    provenance: Provenance

    def __str__(self) -> str:
        return f"{self.kind.title} {self.component.name!r} ({self.provenance})"

    @property
    def name(self) -> str:
        """What a config writes after `type:`."""
        return self.component.name

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the params; raises PluginError where it is missing or invalid."""
        try:
            schema = read_schema(self.component)
        except (OSError, ValueError, LookupError) as error:
            raise self._broken(f"its schema cannot be read: {_reason(error)}") from error
        if schema.get("type") != "object":
            raise self._broken('its schema must describe an object: "type": "object" at the top')
        import jsonschema_rs

        try:
            jsonschema_rs.meta.validate(schema)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            pointer = "/".join(map(str, getattr(error, "instance_path", ())))
            raise self._broken(f"its schema is not valid JSON Schema at '/{pointer}': {_reason(error)}") from error
        return schema

    def factory(self) -> Callable[..., Any]:
        """Import the factory; raises PluginError with the import's own reason."""
        try:
            return self.component.resolve()
        except Exception as error:  # a plugin may fail in any way; the cause is chained and named
            raise self._broken(
                f"its factory {self.component.factory!r} cannot be imported: {_reason(error)}"
            ) from error

    def _broken(self, reason: str) -> PluginError:
        return PluginError(f"{self} is broken: {reason}", repair=_reinstall(self.provenance))


class Registry:
    """All components of one process, by kind and name."""

    def __init__(self) -> None:
        self.manager = PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.broken: list[Broken] = []
        self.disabled: list[Provenance] = []
        self._offers: dict[Kind, dict[str, list[Registered]]] = {kind: {} for kind in Kind}

    @classmethod
    def discover(cls) -> Registry:
        """Load every installed plugin that is not disabled, one by one."""
        registry = cls()
        disabled = {normalized(name) for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()}
        # Sorted, so that listings and messages do not depend on the order on disk.
        for provenance, load in sorted(installed(), key=lambda entry: (entry[0].plugin, entry[0].distribution)):
            if disabled and {"*", normalized(provenance.distribution), normalized(provenance.plugin)} & disabled:
                registry.disabled.append(provenance)
            else:
                registry._load(load, provenance)
        return registry

    def load_file(self, path: str | Path) -> None:
        """Load a plugin file that the user named; unlike an installed plugin it must work."""
        file = Path(path)
        module_name = FILE_MODULE + file.stem
        spec = importlib.util.spec_from_file_location(module_name, file)
        if not file.is_file() or spec is None:
            what = f"plugin file {str(file)!r} is not a .py file" if file.is_file() else f"no plugin file {str(file)!r}"
            raise PluginError(what, repair="--plugin takes the path of a .py file")
        module = importlib.util.module_from_spec(spec)
        # Entered before it runs, as an import does, so that its classes can be pickled.
        sys.modules[module_name] = module
        provenance = Provenance(str(file), "", module_name)
        before = len(self.broken)
        with _registering_into(self, provenance):
            self._load(lambda: _executed(spec, module), provenance)
        if len(self.broken) > before:
            del sys.modules[module_name]
            raise PluginError(f"plugin file {file}: {self.broken.pop().reason}", repair=f"mend {file} and run again")

    def register(
        self,
        kind: str | Kind,
        name: str,
        factory: Callable[..., Any] | str,
        *,
        schema: str | Mapping[str, Any] | None = None,
        inputs: Iterable[Input] | None = None,
        summary: str = "",
        paper: Paper | None = None,
    ) -> Registered:
        """Offer one component from Python; schema and inputs are read off its signature unless given.

        Registering the same kind and name again replaces the earlier one, so that a notebook cell
        can be run twice.
        """
        kind = as_kind(kind)
        if isinstance(factory, str) and schema is None:
            raise PluginError(f"{kind.title} {name!r}: a factory given as text needs a schema", repair="pass schema=")
        component = Component(
            name=name,
            factory=factory,
            schema=signatures.schema_of(factory, kind) if schema is None else schema,  # type: ignore[arg-type]
            summary=summary or signatures.summary_of(factory),
            paper=paper,
            inputs=tuple(signatures.inputs_of(factory, kind) if inputs is None else inputs),
        )
        provenance = _registering[-1][1] if _registering else Provenance("registered in Python", "", "python")
        registered = Registered(kind, component, provenance)
        offers = self._offers[kind].setdefault(name, [])
        offers[:] = [offer for offer in offers if offer.provenance != provenance] + [registered]
        return registered

    def find(self, kind: str | Kind, name: str) -> Registered:
        """Return the component called `name` or `distribution:name`; raises PluginError otherwise."""
        kind = as_kind(kind)
        distribution, _, bare = name.rpartition(":")
        offers = self._offers[kind].get(bare, [])
        if distribution:
            offers = [offer for offer in offers if offer.provenance.distribution == distribution]
        if len(offers) == 1:
            return offers[0]
        if offers:
            raise _clash(offers)
        raise self._unknown(kind, name, bare)

    def all(self, kind: str | Kind | None = None) -> list[Registered]:
        """Return every component, sorted by kind and name."""
        kinds = list(Kind) if kind is None else [as_kind(kind)]
        return [offer for kind in kinds for name in sorted(self._offers[kind]) for offer in self._offers[kind][name]]

    def names(self, kind: str | Kind) -> list[str]:
        """Return the names on offer for one kind."""
        return sorted(self._offers[as_kind(kind)])

    def clashes(self) -> list[list[Registered]]:
        """Return the components that several distributions offer under one kind and name."""
        return [offers for kind in Kind for offers in self._offers[kind].values() if len(offers) > 1]

    def check_schemas(self) -> None:
        """Read every component's schema and move those that are missing or invalid to `broken`."""
        for registered in self.all():
            try:
                _ = registered.schema
            except PluginError as error:
                reason = error.problem.what.partition(" is broken: ")[2]
                self.broken.append(Broken(registered.provenance, reason, registered.kind, registered.name))
                self._offers[registered.kind][registered.name].remove(registered)
                if not self._offers[registered.kind][registered.name]:
                    del self._offers[registered.kind][registered.name]

    def _load(self, load: Callable[[], Any], provenance: Provenance) -> None:
        name = f"{provenance.distribution}:{provenance.plugin}"
        # SystemExit too: a plugin that exits while it is imported must not end `kd --help`.
        try:
            plugin = load()
            self.manager.register(plugin, name=name)
            found = list(offered(self.manager, plugin))
        except (Exception, SystemExit) as error:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            self.broken.append(Broken(provenance, f"it fails to load: {_reason(error)}"))
            return
        for kind, component in found:
            offers = self._offers[kind].setdefault(component.name, [])
            offers.append(Registered(kind, component, provenance))

    def _unknown(self, kind: Kind, name: str, bare: str) -> PluginError:
        for broken in self.broken:
            if broken.kind == kind and broken.name == bare:
                return PluginError(str(broken), repair=_reinstall(broken.provenance))
        elsewhere = [each for each in Kind if each is not kind and bare in self._offers[each]]
        repair = suggestion(bare, self.names(kind), noun=f"{kind.title} names")
        if elsewhere:
            repair = f"{bare!r} is a {elsewhere[0].title}; {repair}"
        package = catalogue().get(kind, {}).get(bare)
        if package:
            repair = f"pip install {package}"
        elif not nearest(bare, self.names(kind)):
            package = f"kd-plugin-{bare.replace('_', '-')}"
            repair += f"; if a package offers it, install that (by custom: pip install {package})"
        suspects = [str(broken) for broken in self.broken if broken.kind is None]
        if suspects:
            repair += f"; these plugins are broken and might offer it: {'; '.join(suspects)}"
        hidden = [str(provenance) for provenance in self.disabled]
        if hidden:
            repair += f"; disabled by {DISABLE_VARIABLE}: {', '.join(hidden)}"
        return PluginError(f"unknown {kind.title} {name!r}", repair=repair)


def as_kind(kind: str | Kind) -> Kind:
    """Return the kind so named; raises PluginError with the nine names."""
    try:
        return Kind(kind)
    except ValueError:
        raise PluginError(
            f"unknown kind {kind!r}", repair=suggestion(str(kind), map(str, Kind), noun="kinds")
        ) from None


@functools.cache
def registry() -> Registry:
    """Return this process's registry, discovered on first use."""
    return Registry.discover()


def register(kind: str | Kind, name: str, factory: Callable[..., Any] | str, **options: Any) -> Registered:
    """Offer one component from a notebook or a plugin file; see `Registry.register`."""
    target = _registering[-1][0] if _registering else registry()
    return target.register(kind, name, factory, **options)


_registering: list[tuple[Registry, Provenance]] = []


class _registering_into:  # noqa: N801 - reads as a phrase where it is used
    """Direct `kdcore.register` calls made while a plugin file is executed to one registry."""

    def __init__(self, target: Registry, provenance: Provenance) -> None:
        self.entry = (target, provenance)

    def __enter__(self) -> None:
        _registering.append(self.entry)

    def __exit__(self, *error: object) -> None:
        _registering.pop()


def _executed(spec: importlib.machinery.ModuleSpec, module: ModuleType) -> ModuleType:
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def _clash(offers: list[Registered]) -> PluginError:
    first, name = offers[0], offers[0].name
    names = sorted({f"{offer.provenance.distribution}:{name}" for offer in offers})
    if len(names) == 1:
        plugins = " and ".join(repr(offer.provenance.plugin) for offer in offers)
        return PluginError(
            f"{first.provenance} offers the {first.kind.title} {name!r} {len(offers)} times: plugins {plugins}",
            repair=_reinstall(first.provenance),
        )
    return PluginError(
        f"{len(names)} distributions offer the {first.kind.title} {name!r}: "
        + ", ".join(str(offer.provenance) for offer in offers),
        repair=f"write {' or '.join(names)}, or uninstall one of them",
    )


def catalogue() -> dict[str, dict[str, str]]:
    """Return which package offers which name, for the packages that are released with the core."""
    return json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _reason(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _reinstall(provenance: Provenance) -> str:
    if not provenance.version:
        return "mend it where it is registered"
    return f"update {provenance.distribution} (pip install -U {provenance.distribution}) or report it to its authors"
