"""A config as read: plain data, and where each piece of it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcore.errors import Place

Path = tuple[str | int, ...]

_BARE = re.compile(r'[^\s.="]+')


@dataclass(frozen=True)
class Spot:
    """Where one value and its key stand; lines and columns count from 1, and 0 means there are none."""

    file: str
    line: int = 0
    column: int = 0
    key_line: int = 0
    key_column: int = 0


@dataclass(frozen=True)
class Source:
    """The text of a config, its data and the position of every value."""

    file: str
    text: str
    data: dict[str, Any]
    spots: Mapping[Path, Spot]

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Return where the value at `path` stands (its key, with `key`), or the nearest thing around it.

        What an anchor holds stands at the anchor; its key stands where the alias is used.
        """
        steps = len(path)
        while steps and path[:steps] not in self.spots:
            steps -= 1
        spot = self.spots.get(path[:steps], Spot(self.file))
        line, column = spot.line, spot.column
        if key and steps == len(path) and spot.key_line:
            line, column = spot.key_line, spot.key_column
        return Place(dotted(path, self.data), spot.file, line, column)


def dotted(path: Path, data: Any = None) -> str:
    """Return `path` as users write it: an item of a list by its name if `data` gives it one."""
    labels = []
    for step in path:
        labels.append(_label(step, data))
        data = _child(data, step)
    return ".".join(labels)


def name_of(item: Any) -> str | None:
    """Return the name by which an item of a list may be addressed."""
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) and name else None


def _label(step: str | int, node: Any) -> str:
    if isinstance(step, int):
        name = name_of(_child(node, step))
        # A name that several items share, or that reads like an index, would lead elsewhere.
        if name is None or name.isdecimal() or [name_of(item) for item in node].count(name) > 1:
            return str(step)
        step = name
    bare = _BARE.fullmatch(step) and step.isprintable()
    return step if bare else json.dumps(step, ensure_ascii=False)


def _child(node: Any, step: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(step)
    if isinstance(node, list) and isinstance(step, int) and 0 <= step < len(node):
        return node[step]
    return None
