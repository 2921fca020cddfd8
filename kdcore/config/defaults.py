"""The defaults that a JSON Schema states, written out."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from kdcore.config.references import mapping, refuse, target

_MAX_DEPTH = 100


def with_defaults(data: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `data` with the defaults of `properties` filled in, and nothing else changed.

    Objects that are present and items of arrays are completed too, through local `$ref`, `allOf`
    and the first branch of `anyOf` or `oneOf` that `data` fits; a default is taken as it stands.
    Whole numbers written as 1e3 or 4.0 become int where the schema wants integers.
    """
    return dict(_Filler(schema).fill(dict(data), schema))


class _Filler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root

    def fill(self, data: Any, schema: Any, depth: int = 0, seen: frozenset[int] = frozenset()) -> Any:
        """Return `data` completed; `seen` holds the schemas already applied to it, for those that name themselves."""
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or id(schema) in seen:
            return data
        seen |= {id(schema)}
        for part in self._parts(data, schema):
            data = self.fill(data, part, depth, seen)
        if isinstance(data, Mapping):
            return self._filled(data, schema, depth)
        if isinstance(data, list):
            prefix = schema.get("prefixItems")
            first = prefix if isinstance(prefix, list) else []
            rest = schema.get("items")
            return [
                self.fill(item, first[index] if index < len(first) else rest, depth + 1)
                for index, item in enumerate(data)
            ]
        return int(data) if _is_integral(data, schema) else data

    def _filled(self, data: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        filled = {key: self.fill(value, _property(schema, key), depth + 1) for key, value in data.items()}
        for key, definition in mapping(schema.get("properties")).items():
            if key not in filled:
                owner = self._with_default(definition)
                if owner is not None:
                    filled[key] = copy.deepcopy(owner["default"])
        return filled

    def _with_default(self, schema: Any) -> Mapping[str, Any] | None:
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, Mapping):
                return None
            if "default" in schema:
                return schema
            schema = target(self.root, schema)
        return None

    def _parts(self, data: Any, schema: Mapping[str, Any]) -> list[Any]:
        """Return the schemas beside `schema` that describe the same value."""
        every = schema.get("allOf")
        parts = [target(self.root, schema), *(every if isinstance(every, list) else [])]
        for keyword in ("anyOf", "oneOf"):
            options = schema.get(keyword)
            if isinstance(options, list) and isinstance(data, (Mapping, list, float)):
                parts.append(next((option for option in options if self._fits(data, option)), None))
        return parts

    def _fits(self, data: Any, schema: Any) -> bool:
        if not isinstance(schema, Mapping):
            return False
        whole = {"$defs": self.root.get("$defs", {}), **schema}
        try:
            return jsonschema_rs.Draft202012Validator(whole, retriever=refuse).is_valid(data)
        except ValueError:
            # Neither a broken schema nor data beyond JSON fits; both are reported by the validation.
            return False


def _property(schema: Mapping[str, Any], key: str) -> Any:
    properties = mapping(schema.get("properties"))
    if key in properties:
        return properties[key]
    for pattern, definition in mapping(schema.get("patternProperties")).items():
        if _matches(pattern, key):
            return definition
    return schema.get("additionalProperties")


def _matches(pattern: str, key: str) -> bool:
    try:
        return re.search(pattern, key) is not None
    except (re.error, TypeError):
        # A pattern in a dialect that Python does not know costs the defaults below it, no more.
        return False


def _is_integral(data: Any, schema: Mapping[str, Any]) -> bool:
    wanted = schema.get("type")
    types = wanted if isinstance(wanted, list) else [wanted]
    return isinstance(data, float) and data.is_integer() and "integer" in types and "number" not in types
