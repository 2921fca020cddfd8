"""The JSON Schema of a component's params, in a file beside the plugin's code."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcore.component import Component


def read_schema(component: Component) -> dict[str, Any]:
    """Return a component's schema as it stands; whether it is a valid one is not looked at.

    Raises:
        OSError: there is no such file.
        ValueError: it is not a JSON object.
        LookupError: the JSON pointer leads nowhere.
    """
    if isinstance(component.schema, Mapping):
        return dict(component.schema)
    name, _, pointer = component.schema.partition("#")
    whole = _read_json(_schema_file(component, name))
    part: Any = whole
    for key in pointer.strip("/").split("/") if pointer else ():
        if not isinstance(part, dict) or key not in part:
            raise LookupError(f"there is nothing at '#{pointer}' in {name}")
        part = part[key]
    if not isinstance(part, dict):
        raise ValueError("it is not a JSON object")
    # A part that refers to the file's shared definitions keeps them, so that its references still resolve.
    return {**part, "$defs": whole.get("$defs", {})} if part is not whole and _refers(part) else part


def _refers(schema: Any) -> bool:
    if isinstance(schema, dict):
        return "$ref" in schema or any(map(_refers, schema.values()))
    return isinstance(schema, list) and any(map(_refers, schema))


def _schema_file(component: Component, name: str) -> Path:
    # The outermost package that has a folder (a namespace package has none): nothing more is imported.
    parts = component.module.split(".")
    for end in range(1, len(parts) + 1):
        found = importlib.util.find_spec(".".join(parts[:end]))
        if found is None:
            break
        if found.origin is not None:
            return Path(found.origin).parent / name
    raise FileNotFoundError(f"package {parts[0]!r} has no folder")


@functools.cache
def _read_json(file: Path) -> dict[str, Any]:
    data = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data
