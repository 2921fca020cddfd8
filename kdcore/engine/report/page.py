"""The page of a report: everything it shows, put into the template."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from kdcore.engine import measure
from kdcore.engine.report.classes import class_changes
from kdcore.engine.report.curves import overview_chart, stage_charts, warnings
from kdcore.engine.report.record import Record
from kdcore.engine.report.story import tell
from kdcore.engine.row import Row, labels, metric_names

_YAML_LINE = re.compile(r"(?P<head>\s*(?:- )*)(?P<key>[^\s#'\"{\[&*!|>-][^:#]*|\"[^\"]*\"|'[^']*')(?P<colon>:)(?=\s|$)")


@dataclass(frozen=True)
class ResultCell:
    """A cell of the table of results."""

    text: str
    best: bool = False
    note: str = ""


@functools.cache
def template(name: str, *packages: str) -> Template:
    """Return a template, read once; what it includes is looked for in `packages`, one after the other."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def render(record: Record) -> str:
    """Return the report as HTML; everything that came from the run is escaped by the template."""
    story = tell(record)
    return template("report.html.j2", "kdcore.engine.report").render(
        record=record,
        story=story,
        headings=_headings(record.rows),
        table=_table(record.rows),
        overview=overview_chart(record, story.comparison),
        stages=stage_charts(record),
        classes=class_changes(story.comparison),
        config=highlight(record.config_text),
        facts=_facts(record),
        plugins=_plugins(record.environment),
        command=_command(record.environment),
        install=_install(record.environment),
        warnings=[*record.warnings, *warnings(record)],
        seed=_write(record.seed) if record.seed is not None else "not given",
        started=str(record.environment.get("started") or "")[:16].replace("T", " "),
        duration=measure.show_duration(record.seconds) if record.seconds is not None else "",
    )


def highlight(text: str) -> Markup:
    """Mark keys and comments of a YAML text; all of it is escaped."""
    return Markup("\n").join(map(_highlight_line, text.splitlines()))


def _highlight_line(line: str) -> Markup:
    if line.lstrip().startswith("#"):
        return Markup('<span class="comment">{}</span>').format(line)
    match = _YAML_LINE.match(line)
    if match is None:
        return escape(line)
    rest = line[match.end() :]
    return Markup('{}<span class="key">{}</span>{}').format(match["head"], match["key"] + match["colon"], rest)


def _headings(rows: Sequence[Row]) -> list[str]:
    splits = {row.split for row in rows}
    split = f"{rows[0].split} " if len(splits) == 1 and rows[0].split else ""
    names = [f"{split}{name}".replace("_", " ") for name in metric_names(rows)]
    batches = {row.latency_batch for row in rows if row.latency_batch is not None}
    batch = f", batch of {batches.pop()}" if len(batches) == 1 else ""
    sparse = ["sparsity"] if any(row.sparsity is not None for row in rows) else []
    return ["", *names, "parameters", *sparse, f"latency, ms{batch}"] if rows else []


def _table(rows: Sequence[Row]) -> list[list[ResultCell]]:
    """Return the table's lines; costs are told as ratios to the largest model too."""
    columns = [[ResultCell(label) for label in labels(rows)]]
    for name in metric_names(rows):
        values = [row.metrics.get(name) for row in rows]
        best = measure.best_of(name, values) if len({row.split for row in rows}) == 1 else [False] * len(rows)
        columns.append([ResultCell(measure.show(name, v), mark) for v, mark in zip(values, best, strict=True)])
    sizes = [row.parameters for row in rows]
    columns.append(_costs("parameters", sizes, [measure.show_count(size) for size in sizes]))
    if any(row.sparsity is not None for row in rows):
        columns.append([ResultCell(measure.show(measure.SPARSITY, row.sparsity)) for row in rows])
    times = [row.latency_ms for row in rows]
    columns.append(_costs("latency", times, [measure.show("latency", time) for time in times]))
    return [list(line) for line in zip(*columns, strict=True)]


def _costs(name: str, values: Sequence[float | None], texts: Sequence[str]) -> list[ResultCell]:
    largest = max((value for value in values if value), default=0)
    notes = [measure.show_ratio(v, largest) if v and v < largest else "" for v in values]
    return [ResultCell(*cell) for cell in zip(texts, measure.best_of(name, values), notes, strict=True)]


def _facts(record: Record) -> list[tuple[str, str]]:
    known = {str(key): value for key, value in record.environment.items() if key not in ("plugins", "command")}
    facts = [("folder", str(record.folder)), ("status", record.status), ("seed", _write(record.seed))]
    return facts + [(key, _write(value)) for key, value in known.items()]


def _write(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_write(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_write, value))
    return measure.MISSING if value is None else str(value)


def _plugins(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    plugins = environment.get("plugins")
    found = [each for each in plugins if isinstance(each, Mapping)] if isinstance(plugins, list) else []
    return [(str(each.get("distribution", "?")), str(each.get("version", "?"))) for each in found]


def _command(environment: Mapping[str, Any]) -> str:
    command = environment.get("command")
    if not isinstance(command, list) or not command:
        return ""
    program, *arguments = map(str, command)
    program = os.path.basename(program.replace("\\", "/"))
    return shlex.join(["kd" if program in ("", "__main__.py", "main.py") else program, *arguments])


def _install(environment: Mapping[str, Any]) -> str:
    """Return the command that installs the versions the run used."""
    versions = [(name, str(environment[name])) for name in ("torch", "kdcore") if environment.get(name)]
    pinned = [f"{name}=={version.split('+')[0]}" for name, version in [*versions, *_plugins(environment)]]
    return shlex.join(["pip", "install", *pinned]) if versions else ""
