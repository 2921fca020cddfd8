"""Where the `$ref` of a JSON Schema leads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def target(root: Any, schema: Any) -> Any:
    """Return what the local `$ref` of `schema` points to in `root`; None without one that leads anywhere."""
    reference = mapping(schema).get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    node = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        node = mapping(node).get(key)
    return node


def followed(root: Any, schema: Any) -> Mapping[str, Any]:
    """Return `schema` together with what its `$ref` points to, its own keywords winning."""
    own = {key: value for key, value in mapping(schema).items() if key != "$ref"}
    return {**mapping(target(root, schema)), **own}


def mapping(node: Any) -> Mapping[str, Any]:
    """Return `node` if it is a mapping, else an empty one: schemas come from strangers."""
    return node if isinstance(node, Mapping) else {}


def refuse(uri: str) -> Any:
    """Refuse to fetch what a `$ref` points to outside its schema: checking a config opens no connection."""
    raise LookupError(f"references must be local, found {uri!r}")
