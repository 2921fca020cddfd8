"""A value of the wrong kind, or none of the options: what was wanted, and what repairs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import jsonschema_rs

from kdcore.errors import nearest, suggestion

KEYWORDS = ("type", "enum", "const")

_TYPES = {
    "boolean": "true or false",
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_SWITCHES = ("yes", "no", "on", "off", "y", "n", "true", "false")


def mismatch(errors: Iterable[jsonschema_rs.ValidationError], value: Any) -> tuple[str, str]:
    """Return what was wanted instead of `value`, and a hint; the errors are of type, enum and const."""
    types: list[str] = []
    options: list[Any] = []
    for error in errors:
        name, wanted = error.kind.name, error.kind.value
        if name == "type":
            types.extend(wanted)
        else:
            options.extend(wanted if name == "enum" else [wanted])
    if "number" in types:
        types = [each for each in types if each != "integer"]
    # Null last: it is rarely what somebody wants to write.
    types = sorted(dict.fromkeys(types), key="null".__eq__)
    wanted_types = [_TYPES.get(each, each) for each in types]
    choices = list(dict.fromkeys(shown(option) for option in options))
    one_of = "one of " if len(choices) > 1 and not wanted_types else ""
    what = f"must be {one_of}{_alternation(choices + wanted_types)}, found {shown(value)}{_kind_of(value)}"
    texts = [option for option in options if isinstance(option, str)]
    return what, _option_hint(value, texts) or _type_hint(value, types)


def _option_hint(value: Any, options: list[str]) -> str:
    if isinstance(value, str):
        close = nearest(value, options)
        return suggestion(value, options) if close else ""
    written = json.dumps(value) if isinstance(value, (bool, int, float)) else None
    return f"put it in quotes: '{written}'" if written in options else ""


def _type_hint(value: Any, types: list[str]) -> str:
    if isinstance(value, str):
        if "boolean" in types and value.lower() in _SWITCHES:
            return "write true or false" + (", without quotes" if value.lower() in ("true", "false") else "")
        number = _numeral(value)
        if number is not None and {"number", "integer"} & set(types):
            return f"write {number}, without quotes"
    if value is None:
        return "give it a value, or leave it out"
    if "array" in types and not isinstance(value, dict):
        return f"write a list: [{value if isinstance(value, str) else json.dumps(value)}]"
    if "string" in types and isinstance(value, (bool, int, float)):
        return f"put it in quotes: '{json.dumps(value)}'"
    return ""


def _numeral(text: str) -> str | None:
    """Return `text` as a number that YAML reads as one, if it looks like a number."""
    readers: tuple[Callable[[str], Any], ...] = (lambda each: int(each, 0), int, float)
    for read in readers:
        try:
            number = read(text)
        except (ValueError, OverflowError):
            continue
        return json.dumps(number) if abs(number) < 1e300 else None
    return None


def shown(value: Any) -> str:
    """Return `value` as messages show it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        keys = ", ".join(list(value)[:5]) + (", ..." if len(value) > 5 else "")
        return f"a mapping with the keys {keys}" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)} item{'s' if len(value) != 1 else ''}" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind_of(value: Any) -> str:
    return " (text)" if isinstance(value, str) else ""


def _alternation(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
