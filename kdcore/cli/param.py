"""One param of a component in words, read off its schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def describe_param(param: Mapping[str, Any], *, required: bool) -> tuple[str, str, str, str]:
    """Return a param's type, default, range and description as words."""
    default = _word(param["default"]) if "default" in param else "required" if required else ""
    return _type(param), default, _range(param), str(param.get("description", ""))


def _type(param: Mapping[str, Any]) -> str:
    if "enum" in param:
        return " | ".join(map(_word, param["enum"]))
    if "const" in param:
        return _word(param["const"])
    if "anyOf" in param or "oneOf" in param:
        return " | ".join(dict.fromkeys(_type(option) for option in param.get("anyOf", param.get("oneOf", ()))))
    kind = param.get("type", "any")
    if kind == "array" and isinstance(param.get("items"), dict):
        return f"list of {_type(param['items'])}"
    return kind if isinstance(kind, str) else " | ".join(kind)


def _range(param: Mapping[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {param[word]}" for word, sign in signs.items() if word in param]
    if "minItems" in param or "maxItems" in param:
        low, high = param.get("minItems", 0), param.get("maxItems")
        limits.append(f"{low} entries" if low == high else f"{low} to {high} entries" if high else f"{low} or more")
    for option in (*param.get("anyOf", ()), *param.get("oneOf", ())):
        limits += [text for text in [_range(option)] if text]
    return ", ".join(limits)


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
