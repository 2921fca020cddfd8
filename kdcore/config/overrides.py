"""Values given on the command line: `stages.distill.epochs=5`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdcore.config.reader import read_value
from kdcore.config.source import Path, Source, Spot, dotted, name_of
from kdcore.config.switches import is_switch
from kdcore.errors import ConfigError, Place, Problem, suggestion

_STEP = re.compile(r'"(?:[^"\\]|\\.)*"|[^."=\s]+')
_MAX_SHOWN = 120


def apply_overrides(source: Source, assignments: Sequence[str]) -> Source:
    """Return `source` with each `path=value` applied in turn; the value is YAML, by the rules of a file.

    A step of the path is a key, or the index or name of an item of a list; in double quotes it may
    hold dots. Keys that are missing are made, also below a `true` that may be a mapping (`cache: true`).
    Raises ConfigError with every assignment that fails.
    """
    changed = replace(source, data=copy.deepcopy(source.data), spots=dict(source.spots))
    problems: list[Problem] = []
    for assignment in assignments:
        try:
            changed = _assigned(changed, assignment)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return changed


def resolved_path(data: Any, text: str) -> Path:
    """Return what the path of an assignment leads to in `data`; raises ConfigError where it leads nowhere."""
    steps, value = _split(f"{text}=", text)
    if value:
        raise _error("this is not a path", text, "write keys with dots between them, for example stages.distill.epochs")
    return _resolved(data, steps, text)


def _assigned(source: Source, assignment: str) -> Source:
    """Write one assignment into `source.data`, and return the source that knows where it stands."""
    file = f"--set {assignment if len(assignment) <= _MAX_SHOWN else assignment[: _MAX_SHOWN - 3] + '...'}"
    steps, text = _split(assignment, file)
    path = _resolved(source.data, steps, file)
    value, below = _value(text, path, Place(dotted(path, source.data), file))
    _write(source.data, path, value)
    spots = {where: spot for where, spot in source.spots.items() if where[: len(path)] != path}
    spots |= {path[:end]: Spot(file) for end in range(1, len(path)) if path[:end] not in spots}
    return replace(source, spots=spots | {where: Spot(file) for where in below})


def _split(assignment: str, file: str) -> tuple[list[str], str]:
    steps = []
    position = 0
    while match := _STEP.match(assignment, position):
        steps.append(_unquoted(match.group(), file))
        position = match.end()
        if not assignment.startswith(".", position):
            break
        position += 1
    rest = assignment[position:].lstrip()
    if not steps or assignment[position - 1 : position] == "." or not rest.startswith("="):
        raise _error("this is not an assignment", file, "write path=value, for example stages.distill.epochs=5")
    return steps, rest[1:]


def _unquoted(step: str, file: str) -> str:
    if not step.startswith('"'):
        return step
    try:
        return str(json.loads(step))
    except ValueError:
        repair = 'inside quotes, write \\\\ for \\ and \\" for a quote'
        raise _error(f"{step} is not a quoted key", file, repair) from None


def _resolved(data: Any, steps: list[str], file: str) -> Path:
    path: Path = ()
    node = data
    for step in steps:
        if isinstance(node, list):
            index = _index(node, step, dotted(path, data), file)
            path, node = (*path, index), node[index]
        elif node is None or isinstance(node, dict):
            # An empty section is a mapping in the making.
            path, node = (*path, step), (node or {}).get(step)
        elif node is True and is_switch(path):
            # Switched on with all defaults, of which this changes one.
            path, node = (*path, step), None
        else:
            where = dotted(path, data)
            what = f"{where!r} is {json.dumps(node, ensure_ascii=False)}, which has no key {step!r}"
            start = f"type: {node}, " if isinstance(node, str) else ""
            raise _error(what, file, f"set the whole of it: {where}={{{start}{step}: ...}}")
    return path


def _index(items: list[Any], step: str, where: str, file: str) -> int:
    names = [name_of(item) for item in items]
    if step.isdecimal() and step.isascii():
        # Longer than any list's index is far out of range, and int() refuses very long ones.
        if len(step) > 9 or int(step) >= len(items):
            found = f"items 0 to {len(items) - 1}" if items else "no items"
            raise _error(f"{where!r} has no item {step}", file, f"it has {found}")
        return int(step)
    if names.count(step) > 1:
        indices = ", ".join(str(index) for index, name in enumerate(names) if name == step)
        raise _error(f"{where!r} has several items named {step!r}", file, f"name one by its index: {indices}")
    if step not in names:
        known = [name for name in names if name is not None] or [str(index) for index in range(len(items))]
        raise _error(f"{where!r} has no item {step!r}", file, suggestion(step, known, noun="items"))
    return names.index(step)


def _value(text: str, path: Path, place: Place) -> tuple[Any, dict[Path, Spot]]:
    if text.lstrip().startswith("#"):
        repair = f"put it in quotes: '{text.strip()}'"
        raise ConfigError([Problem("a value that starts with '#' is a comment in YAML", place, repair)])
    try:
        return read_value(text, place.file, path)
    except ConfigError as error:
        # Positions inside the value say little to somebody who looks at a command line.
        raise ConfigError(Problem(each.what, place, each.repair) for each in error.problems) from None


def _write(data: Any, path: Path, value: Any) -> None:
    node = data
    for step in path[:-1]:
        if isinstance(node, dict) and (node.get(step) is None or node[step] is True):
            node[step] = {}
        node = node[step]
    node[path[-1]] = value


def _error(what: str, file: str, repair: str) -> ConfigError:
    return ConfigError([Problem(what, Place(file=file), repair)])
