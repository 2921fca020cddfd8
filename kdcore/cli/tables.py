"""The tables that `kd plugins` prints."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdcore.cli.example import PLACES, example
from kdcore.cli.param import describe_param
from kdcore.component import Component
from kdcore.plugins import Registered, Registry

# Wide enough that nothing is cut or wrapped where another program reads the output.
PIPED_WIDTH = 1000
NARROW = 140


def console() -> Console:
    """Return a console as wide as the terminal, or wide enough for any row if there is none."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def list_components(components: Iterable[Registered], registry: Registry) -> None:
    """Print what is installed, then what is broken, clashing or disabled."""
    out = console()
    columns = ["kind", "name", "distribution", "version", "summary", "paper"]
    # A narrow terminal has no room for the papers; kd plugins show has it.
    shown = len(columns) - (out.width < NARROW)
    table = _table(*columns[:shown])
    for each in components:
        names = (each.kind.title, each.name, each.provenance.distribution, each.provenance.version)
        _row(table, *(*names, each.component.summary, _paper(each.component))[:shown])
    out.print(table)
    if not table.row_count:
        out.print("nothing; for a start: pip install 'kdcore[standard]'", markup=False)
    if registry.broken:
        table = _table("broken", "version", "what", "reason")
        for broken in registry.broken:
            what = f"{broken.kind.title} {broken.name}" if broken.kind else "all of it"
            _row(table, broken.provenance.distribution, broken.provenance.version, what, broken.reason)
        _print_below(out, table)
    if registry.clashes():
        table = _table("offered more than once", "write one of")
        for offers in registry.clashes():
            full = [f"{each.provenance.distribution}:{each.name}" for each in offers]
            _row(table, f"{offers[0].kind.title} {offers[0].name}", ", ".join(full))
        _print_below(out, table)
    if registry.disabled:
        table = _table("disabled", "version", "plugin")
        for provenance in registry.disabled:
            _row(table, provenance.distribution, provenance.version, provenance.plugin)
        _print_below(out, table)


def show_component(registered: Registered) -> None:
    """Print everything about one component."""
    out, component = console(), registered.component
    out.print(f"[bold]{registered.name}[/]: {registered.kind.title} of {escape(str(registered.provenance))}")
    out.print(escape(component.summary))
    if component.paper is not None:
        out.print(escape(f"{_paper(component)}, {component.paper.url}"))
    if component.inputs:
        table = _table("input", "role", "default", "description")
        for each in component.inputs:
            default = (each.default or "none, must be bound") if each.required else "optional"
            _row(table, each.name, str(each.role), default, each.help)
        _print_below(out, table)
    schema = registered.schema
    if schema.get("properties"):
        table = _table("param", "type", "default", "range", "description")
        for name, param in schema["properties"].items():
            _row(table, name, *describe_param(param, required=name in schema.get("required", ())))
        _print_below(out, table)
    text = yaml.safe_dump(example(registered), sort_keys=False, default_flow_style=False)
    out.print()
    out.print(f"example, {PLACES[registered.kind]}", style="bold")
    # Not through rich, which would wrap it: the text is there to be copied.
    print("\n" + text, end="")


def _paper(component: Component) -> str:
    return f"{component.paper.title} ({component.paper.year})" if component.paper else ""


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    # Brackets in a summary or an error are text, not rich's markup.
    table.add_row(*map(escape, cells))


def _print_below(out: Console, table: Table) -> None:
    out.print()
    out.print(table)
