"""Other values of a param than an example's, as its schema and the other examples tell."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from kdcore.component import Kind
from kdcore.config.create import checked_params
from kdcore.testing.subject import Subject

# Tried wherever the schema lets them pass: what a small number hides, as of a guard, a larger one shows.
COMMON = (0, 1, 2, 0.5, -1, 3)
# Of numbers that are no sizes.
LARGE = 1e3
# Lists of numbers have up to so many.
LONGEST = 5


def others(subject: Subject, name: str) -> Iterator[Any]:
    """Yield values other than the example's that a param may have, the likeliest first; the schema may refuse some."""
    part = subject.registered.schema["properties"][name]
    usual = checked_params(subject.registered, dict(subject.given.params)).get(name)
    seen = [usual]
    for value in itertools.chain(_near(usual), choices(part), _written(subject, name, part), _common(part)):
        if not any(_same(value, each) for each in seen):
            seen.append(value)
            yield value


def choices(part: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the values that a schema lists, with true, false and null where it allows them."""
    for option in options(part):
        yield from option.get("enum", ())
        yield from (option["const"],) if "const" in option else ()
        if "boolean" in types(option):
            yield from (False, True)
        if "null" in types(option):
            yield None


def options(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what a schema says of a param, and each alternative."""
    yield part
    for each in (*part.get("anyOf", ()), *part.get("oneOf", ())):
        yield from options(each)


def types(part: Mapping[str, Any]) -> set[str]:
    """Return the types that a schema names."""
    named = part.get("type", ())
    return {named} if isinstance(named, str) else set(named)


def _near(usual: Any) -> Iterator[Any]:
    """Yield a value twice and half as large, of lists and mappings with every number in them so."""
    if isinstance(usual, str):
        yield f"{usual}_other"
    if isinstance(usual, (bool, str)) or usual is None:
        return
    if isinstance(usual, (int, float)):
        yield from (2 * usual, usual // 2 if isinstance(usual, int) else usual / 2)
        yield from (usual + 1, usual - 1) if isinstance(usual, int) else ()
        return
    for factor in (2, 0.5):
        yield _scaled(usual, factor)
    if isinstance(usual, list):
        yield usual[:-1]


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: _scaled(each, factor) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scaled(each, factor) for each in value]
    return int(value * factor) if isinstance(value, int) else value * factor


def _written(subject: Subject, name: str, part: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what the other examples and the schema write for a param."""
    yield from (each.params[name] for each in subject.others if name in each.params)
    for option in options(part):
        yield from option.get("examples", ())
        yield from (option["default"],) if "default" in option else ()
    if subject.kind is Kind.BALANCER:
        yield from subject.given.terms


def _common(part: Mapping[str, Any]) -> Iterator[Any]:
    for option in options(part):
        if types(option) & {"number", "integer"}:
            yield from (option[bound] for bound in ("minimum", "maximum") if bound in option)
            yield from COMMON
        if "number" in types(option):
            yield LARGE
        if types(option.get("items", {})) & {"number", "integer"}:
            yield from (list(range(1, length + 1)) for length in range(2, LONGEST + 1))
        if "string" in types(option) and "enum" not in option:
            yield "other"


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
