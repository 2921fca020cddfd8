"""Keys of a config that are a truth value or a mapping: `true` for the mapping with all its defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.config.schemas import load_schema
from kdcore.config.source import Path

Schema = Mapping[str, Any]


def is_switch(path: Path) -> bool:
    """Whether the config's schema lets the value at `path` be true and a mapping alike."""
    root = load_schema("config")
    found: list[Schema] = [root]
    for step in path:
        found = [below for schema in found for each in _readings(schema, root) for below in _below(each, step)]
    kinds = {kind for schema in found for each in _readings(schema, root) for kind in _kinds(each)}
    return {"boolean", "object"} <= kinds


def _readings(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Yield what a schema says itself, and each of its alternatives and parts."""
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        yield from _readings(target, root)
    for keyword in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(keyword, ()):
            yield from _readings(each, root)


def _below(schema: Schema, step: str | int) -> Iterator[Schema]:
    """Yield the schema of what stands at one key, or at any index, of the value that `schema` describes."""
    key = "items" if isinstance(step, int) else "additionalProperties"
    properties = schema.get("properties", {})
    below = properties[step] if step in properties else schema.get(key)
    if isinstance(below, dict):
        yield below


def _kinds(schema: Schema) -> list[str]:
    kind = schema.get("type", [])
    return [kind] if isinstance(kind, str) else list(kind)
