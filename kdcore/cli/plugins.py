"""`kd plugins`: what is installed, what is broken, and how one component is used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.cli.arguments import add_plugin_argument, registry_of
from kdcore.component import Kind

if TYPE_CHECKING:
    from kdcore.plugins import Registered, Registry

HELP = "list what is installed; show, check or begin a plugin"
DESCRIPTION = """List every installed component with the distribution that offers it, then the plugins that are broken,
the names that several distributions offer and the plugins that KDCORE_DISABLE_PLUGINS disables.

show NAME describes one component, check NAME runs the conformance checks on it, or on every component of a
distribution, and new NAME writes a complete package for one of your own."""
EPILOG = """examples:
  kd plugins
  kd plugins --kind adapter
  kd plugins --json                    for other programs
  kd plugins show kd                   inputs, params and an example of one component
  kd plugins show kd-plugin-at:at      where several distributions offer a name
  kd plugins check at                  does it keep what users rely on?
  kd plugins check kd-plugin-torch     all that a distribution offers
  kd plugins new my-loss               a package to publish, in ./kd-plugin-my-loss
  kd plugins new my-net --kind model --into ~/plugins
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", nargs="?", choices=["show", "check", "new"], help="what to do with NAME")
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a component, distribution:name or kind/name; to check, a distribution too",
    )
    kinds = list(map(str, Kind))
    parser.add_argument("--kind", choices=kinds, metavar="KIND", help=f"only this kind: {', '.join(kinds)}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--slow", action="store_true", help="check: run the slow checks too")
    parser.add_argument("--into", metavar="DIR", default=".", help="new: the folder to write the package into (here)")
    add_plugin_argument(parser)
    parser.set_defaults(complain=parser.error)


def execute(arguments: argparse.Namespace) -> int:
    """List the components; or show one, check some, or write a package for a new one."""
    if (arguments.action is None) != (arguments.name is None):
        arguments.complain(f"{arguments.action or 'show'} needs the NAME of a component")
    registry = registry_of(arguments)
    if arguments.name is None:
        return _list(registry, arguments)
    if arguments.action == "new":
        return _new(registry, arguments)
    if arguments.action == "check":
        from kdcore.cli.plugin_check import check

        return check(_named(registry, arguments), slow=arguments.slow, json=arguments.json)
    found = find(registry, arguments.name, arguments.kind)
    if arguments.json:
        _print_json(as_data(found) | {"params": found.schema})
        return 0
    from kdcore.cli.tables import show_component

    show_component(found)
    return 0


def _new(registry: Registry, arguments: argparse.Namespace) -> int:
    from kdcore.cli.package import SAMPLES, Package

    kind = Kind(arguments.kind or Kind.LOSS)
    if kind not in SAMPLES:
        arguments.complain(f"there is no template for a {kind.title}; choose --kind from {', '.join(SAMPLES)}")
    package = Package.named(arguments.name, kind)
    package.check_free(registry)
    folder = package.write(Path(arguments.into))
    print(f"{folder}: the {kind.title} {package.component!r}. Next:")
    print(f"    cd {folder}")
    print("    pip install -e . && pytest && kd run example.yaml")
    return 0


def _named(registry: Registry, arguments: argparse.Namespace) -> list[Registered]:
    offered = [each for each in registry.all(arguments.kind) if each.provenance.distribution == arguments.name]
    return offered or [find(registry, arguments.name, arguments.kind)]


def find(registry: Registry, name: str, kind: str | None) -> Registered:
    """Return the component so named, of whatever kind there is one; raises PluginError otherwise."""
    from kdcore.errors import PluginError, nearest

    if kind is None and "/" in name:
        kind, _, name = name.partition("/")
    if kind is not None:
        return registry.find(kind, name)
    kinds = [each for each in Kind if name.rpartition(":")[2] in registry.names(each)]
    if len(kinds) == 1:
        return registry.find(kinds[0], name)
    if kinds:
        raise PluginError(
            f"{name!r} is the name of several kinds: {', '.join(each.title for each in kinds)}",
            repair=f"add --kind {' or --kind '.join(kinds)}",
        )
    for broken in registry.broken:
        if broken.name == name:
            raise PluginError(str(broken))
    close = nearest(name, [each.name for each in registry.all()])
    guess = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise PluginError(f"no component is called {name!r}", repair=f"{guess}kd plugins lists them all")


def as_data(registered: Registered) -> dict[str, Any]:
    """Return a component as plain data."""
    component, provenance = registered.component, registered.provenance
    paper = component.paper
    return {
        "kind": str(registered.kind),
        "name": component.name,
        "distribution": provenance.distribution,
        "version": provenance.version,
        "summary": component.summary,
        "paper": paper and {"title": paper.title, "year": paper.year, "url": paper.url},
        "inputs": [
            {
                "name": each.name,
                "required": each.required,
                "role": str(each.role),
                "default": each.default,
                "list": each.list,
                "help": each.help,
            }
            for each in component.inputs
        ],
    }


def _list(registry: Registry, arguments: argparse.Namespace) -> int:
    registry.check_schemas()
    components = registry.all(arguments.kind)
    if arguments.json:
        _print_json({"components": [as_data(each) for each in components], **_troubles(registry)})
        return 0
    from kdcore.cli.tables import list_components

    list_components(components, registry)
    return 0


def _troubles(registry: Registry) -> dict[str, Any]:
    return {
        "broken": [
            {
                "distribution": each.provenance.distribution,
                "version": each.provenance.version,
                "plugin": each.provenance.plugin,
                "kind": each.kind and str(each.kind),
                "name": each.name,
                "reason": each.reason,
            }
            for each in registry.broken
        ],
        "clashes": [
            {
                "kind": str(offers[0].kind),
                "name": offers[0].name,
                "distributions": [each.provenance.distribution for each in offers],
            }
            for offers in registry.clashes()
        ],
        "disabled": [
            {"distribution": each.distribution, "version": each.version, "plugin": each.plugin}
            for each in registry.disabled
        ],
    }


def _print_json(data: Any) -> None:
    import json

    print(json.dumps(data, indent=2, ensure_ascii=False))
