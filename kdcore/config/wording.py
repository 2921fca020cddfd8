"""One violation of a JSON Schema, in our words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from kdcore.config.mismatch import KEYWORDS, mismatch, shown
from kdcore.config.references import followed, mapping, target
from kdcore.config.source import Path, dotted
from kdcore.errors import nearest, suggestion

Violation = jsonschema_rs.ValidationError

_MAX_PARTS = 8
_BOUNDS = {
    "minimum": "must be at least {limit}, found {value}",
    "maximum": "must be at most {limit}, found {value}",
    "exclusiveMinimum": "must be more than {limit}, found {value}",
    "exclusiveMaximum": "must be less than {limit}, found {value}",
    "multipleOf": "must be a multiple of {limit}, found {value}",
    "minLength": "must have at least {limit} characters, found {value}",
    "maxLength": "must have at most {limit} characters, found {value}",
    "minItems": "must have at least {limit} items, found {count}",
    "maxItems": "must have at most {limit} items, found {count}",
    "minProperties": "must have at least {limit} keys, found {count}",
    "maxProperties": "must have at most {limit} keys, found {count}",
    "pattern": "must match the pattern {limit}, found {value}",
    "format": "must be in the format {limit}, found {value}",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with the value at `path` (with its key, if `key`)."""

    path: Path
    what: str
    repair: str = ""
    key: bool = False


@dataclass(frozen=True)
class Wording:
    """How the violations of one schema are worded.

    Arguments:
        schema: the schema that the data violates.
        noun: what a key is called.
        owner: whose keys they are, as " of loss 'kd' (kd-plugin-kd 0.1.0)"; may be empty.
    """

    schema: Any
    noun: str = "key"
    owner: str = ""

    def findings(self, error: Violation) -> list[Finding]:
        """Return what `error` means, which may be several things."""
        name, path = error.kind.name, tuple(error.instance_path)
        if name in ("additionalProperties", "unevaluatedProperties"):
            return [self._unknown(error, key) for key in error.kind.value]
        if name == "required":
            return [self._missing(error, error.kind.value)]
        if name in ("anyOf", "oneOf"):
            return self._alternatives(error)
        if name == "propertyNames":
            key = str(error.kind.value.instance)
            what = self._said(error.kind.value)[0].partition(", found ")[0]
            return [Finding((*path, key), f"{self.noun} {key!r} {what}", self._description(error, ()), key=True)]
        what, hint = self._said(error)
        return [Finding(path, f"{self.subject(path)}{what}", _joined(hint, self._description(error, path)))]

    def _said(self, error: Violation) -> tuple[str, str]:
        """Return what is wrong with a value, and a hint."""
        name, wanted, value = error.kind.name, error.kind.value, error.instance
        if name in _BOUNDS:
            return _bound(name, wanted, value)
        if name in KEYWORDS:
            return mismatch([error], value)
        if name == "uniqueItems":
            return f"must not hold the same item twice, found {_twice(value)}", "remove one of the two"
        if name == "falseSchema":
            return "is not allowed here", "remove it"
        if name == "not":
            return f"must be something else than {shown(value)}", ""
        if name == "contains":
            return "lacks an item that it must have", ""
        return f"is not as it must be ({error.message})", ""

    def subject(self, path: Path) -> str:
        """Return how a message about the value at `path` begins."""
        if not path:
            return f"what is given{self.owner} " if self.owner else ""
        return f"{dotted(path)!r}{self.owner} " if self.owner else f"{_last(path)!r} "

    def _unknown(self, error: Violation, key: str) -> Finding:
        path = tuple(error.instance_path)
        known = sorted(_allowed(self.schema, self._holder(error)))
        plural = f"{self.noun}s"
        repair = suggestion(key, known, noun=plural)
        if nearest(key, known):
            repair += f" {plural}: {', '.join(known)}"
        return Finding((*path, key), f"unknown {self.noun} {key!r}{self.owner}", repair, key=True)

    def _missing(self, error: Violation, key: str) -> Finding:
        path = tuple(error.instance_path)
        definition = followed(self.schema, mapping(mapping(self._holder(error)).get("properties")).get(key))
        description = definition.get("description")
        repair = f"add {key}" + (f": {description}" if description else "")
        where = f" in {_last(path)!r}" if path else ""
        return Finding(path, f"missing {self.noun} {key!r}{self.owner or where}", repair)

    def _alternatives(self, error: Violation) -> list[Finding]:
        path = tuple(error.instance_path)
        branches = _branches(error)
        if not all(branches):
            what = f"{self.subject(path)}fits several alternatives, of which only one may hold"
            return [Finding(path, what, self._description(error, path))]
        best = min(branches, key=lambda branch: _misfit(branch, path))
        if not _mismatches(best, path):
            return [finding for inner in best for finding in self.findings(inner)]
        refused = [each for branch in branches for each in _mismatches(branch, path)]
        what, hint = mismatch(refused, error.instance)
        return [Finding(path, f"{self.subject(path)}{what}", _joined(hint, self._description(error, path)))]

    def _holder(self, error: Violation) -> Any:
        """Return the schema that holds the keyword which `error` violates."""
        return self._trail(error)[-1]

    def _description(self, error: Violation, path: Path) -> str:
        """Return what the schema says about the value, nearest to the violation first."""
        for schema in reversed(self._trail(error)):
            if isinstance(schema, Mapping) and isinstance(schema.get("description"), str):
                return f"{_last(path)}: {schema['description']}" if path else str(schema["description"])
        return ""

    def _trail(self, error: Violation) -> list[Any]:
        """Return the schemas on the way to the violated keyword that describe this very value."""
        node, trail = self.schema, [self.schema]
        steps = list(error.evaluation_path)
        for position, step in enumerate(steps[:-1]):
            below = _child(node, step)
            if step == "$ref":
                below = followed(self.schema, node)
            keyword = steps[position - 1] if position else ""
            if step in ("items", "additionalProperties", "contains", "propertyNames", "unevaluatedProperties") or (
                keyword in ("properties", "patternProperties", "prefixItems")
            ):
                trail = []
            node = below
            trail.append(node)
        return trail


def _bound(name: str, limit: Any, value: Any) -> tuple[str, str]:
    if limit == 1 and name.startswith("min") and name != "minimum":
        return "must not be empty", ""
    count = len(value) if isinstance(value, (str, list, dict)) else 0
    return _BOUNDS[name].format(limit=shown(limit), value=shown(value), count=count), ""


def _branches(error: Violation) -> list[list[Violation]]:
    """Return the violations of each alternative; alternatives of alternatives count as their own."""
    found: list[list[Violation]] = []
    for branch in error.kind.value:
        inner = branch[0] if len(branch) == 1 else None
        same = inner is not None and inner.instance_path == error.instance_path
        if inner is not None and same and inner.kind.name in ("anyOf", "oneOf") and all(inner.kind.value):
            found.extend(_branches(inner))
        else:
            found.append(list(branch))
    return found


def _mismatches(branch: Iterable[Violation], path: Path) -> list[Violation]:
    """Return the violations that say the value is of another kind altogether."""
    return [each for each in branch if each.kind.name in KEYWORDS and tuple(each.instance_path) == path]


def _misfit(branch: list[Violation], path: Path) -> tuple[bool, bool, int, int]:
    """Return how badly a value fits a branch: least for one that fails late and in few places."""
    other = any(each.kind.name == "const" for each in branch)
    depth = max(len(each.instance_path) for each in branch)
    return bool(_mismatches(branch, path)), other, len(branch), -depth


def _allowed(root: Any, schema: Any, depth: int = 0) -> set[str]:
    """Return the keys that a schema and its parts name."""
    if not isinstance(schema, Mapping) or depth > _MAX_PARTS:
        return set()
    keys = {key for key, value in mapping(schema.get("properties")).items() if value is not False}
    for keyword in ("allOf", "anyOf", "oneOf"):
        parts = schema.get(keyword)
        for part in parts if isinstance(parts, list) else []:
            keys |= _allowed(root, part, depth + 1)
    return keys | (_allowed(root, target(root, schema), depth + 1))


def _child(node: Any, step: str | int) -> Any:
    if isinstance(node, list):
        return node[step] if isinstance(step, int) and step < len(node) else None
    return mapping(node).get(str(step))


def _last(path: Path) -> str:
    """Return the last key of a path, with the indices after it."""
    start = max((index for index, step in enumerate(path) if isinstance(step, str)), default=0)
    return dotted(path[start:])


def _twice(items: Any) -> str:
    written = [json.dumps(item, sort_keys=True, default=str) for item in items]
    return next(
        (f"{shown(item)} twice" for item, text in zip(items, written, strict=True) if written.count(text) > 1),
        shown(items),
    )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
