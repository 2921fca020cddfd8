"""Plain data: what JSON can say, which is all that a schema can judge."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

from kdcore.config.source import Path

_MAX_DEPTH = 100
_MAX_BITS = 1024


class Impurities(list[tuple[Path, str, str]]):
    """What of some data is not plain: where, what is wrong, and the repair."""


def plain(data: Any) -> tuple[Any, Impurities]:
    """Return `data` as plain JSON types, with null for what is not plain, and everything that is not."""
    found = Impurities()
    return _plain(data, (), found, frozenset()), found


def _plain(data: Any, path: Path, found: Impurities, outer: frozenset[int]) -> Any:
    if data is None or isinstance(data, bool):
        return data
    if isinstance(data, str):
        return _text(data, path, found)
    if isinstance(data, numbers.Real):
        return _number(data, path, found)
    if isinstance(data, os.PathLike):
        return _plain(os.fspath(data), path, found, outer)
    if isinstance(data, (Mapping, list, tuple)):
        if len(path) >= _MAX_DEPTH:
            found.append((path, f"is nested more than {_MAX_DEPTH} levels deep", "write it flatter"))
            return None
        if id(data) in outer:
            found.append((path, "contains itself", "write the value out"))
            return None
        outer |= {id(data)}
        if isinstance(data, Mapping):
            return _mapping(data, path, found, outer)
        return [_plain(item, (*path, index), found, outer) for index, item in enumerate(data)]
    found.append(
        (path, f"is of the type {type(data).__name__}, which is not data", "pass text, numbers, lists, mappings")
    )
    return None


def _mapping(data: Mapping[Any, Any], path: Path, found: Impurities, outer: frozenset[int]) -> dict[str, Any]:
    result = {}
    for key, value in data.items():
        if isinstance(key, str):
            name = _text(key, path, found)
            result[name] = _plain(value, (*path, name), found, outer)
        else:
            found.append((path, f"has a key of the type {type(key).__name__}", "write the key as text"))
    return result


def _text(text: str, path: Path, found: Impurities) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        found.append((path, "holds half of a surrogate pair", "write the character itself"))
        return ""
    # Subclasses such as StrEnum stand for their text.
    return text if type(text) is str else str.__str__(text)


def _number(number: numbers.Real, path: Path, found: Impurities) -> int | float | None:
    if isinstance(number, numbers.Integral):
        whole = int(number)
        if whole.bit_length() <= _MAX_BITS:
            return whole
        found.append((path, f"is a whole number of {whole.bit_length()} bits", f"use at most {_MAX_BITS} bits"))
        return None
    value = float(number)
    if math.isfinite(value):
        return value
    found.append((path, f"is {value}, not a finite number", "leave it out, or pass a number"))
    return None
