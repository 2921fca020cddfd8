"""The range of every param: schema and constructor draw the same line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kdcore.component import CheckContext, Kind
from kdcore.config.create import checked_params
from kdcore.errors import ConfigError, KdcoreError
from kdcore.testing.check import ALL, MODULES, SCALARS, check
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject

# Kinds whose constructors are cheap, and people call by hand.
HAND_WRITTEN = MODULES - {Kind.MODEL}
# Where constructors draw a line as a rule; tried wherever the schema lets them pass.
COMMON = (-1, 0, 0.5, 1, 2)
LARGE = 1_000_000
# Inside a bound that is exclusive, and outside of one that is not.
STEP = 1e-9
NOT_LISTED = "no such choice"


@check(
    ALL,
    "the constructor accepts the values that the schema allows",
    once=True,
    optional=True,
    after=("schema_strict", "constructor_agrees"),
)
def bounds_accepted(subject: Subject) -> None:
    """Build the component with each enumerated value, each bound or what is next to it, and some common numbers."""
    _ = subject.given
    for name, value in _extremes(subject):
        changed = with_param(subject, name, value)
        if not goes_together(changed):
            continue
        try:
            changed.construct()
        except Exception as error:  # a constructor may refuse in any way; the cause is chained and named
            raise Finding(
                f"the schema allows {name}: {value!r}, but the constructor raised {type(error).__name__}: "
                f"{error}. Narrow the schema, or say in the component's check= what does not go together"
            ) from error


@check(
    HAND_WRITTEN,
    "what the schema refuses constructor or setup refuse too, by the param's name",
    once=True,
    optional=True,
    after=("schema_strict", "builds"),
)
def bounds_refused(subject: Subject) -> None:
    """Build the component by hand with values that are not listed, outside of a bound, or not a number."""
    usual = checked_params(subject.registered, dict(subject.given.params))
    tried = False
    for name, value in _outside(subject.registered.schema):
        if _allowed(with_param(subject, name, value)):
            continue  # another alternative of the schema takes it
        tried = True
        what = f"the schema refuses {name}: {value!r}, but the constructor (or setup)"
        try:
            subject.set_up(subject.make({**usual, name: value}))
        except (ValueError, KdcoreError) as error:
            if names(error, name):
                continue
            raise Finding(f"{what} says {str(error)!r}, without the name {name}: name param, value and range") from None
        except Exception as error:  # a constructor may fail in any way; the cause is chained and named
            raise Finding(
                f"{what} raised {type(error).__name__}: {error}. Raise ValueError with param, value and range first"
            ) from error
        raise Finding(
            f"{what} takes it: who builds it by hand is not told. Raise ValueError with param, value and range, and "
            "compare so that NaN fails: if not x > 0"
        )
    if not tried:
        raise NotApplicable("none of its params has a list or a bound")


def names(error: Exception, *words: str) -> bool:
    """Whether what an error says holds one of the words."""
    return any(re.search(rf"\b{re.escape(word)}\b", str(error)) for word in words)


def with_param(subject: Subject, name: str, value: Any) -> Subject:
    """Return the subject with one of the example's params replaced."""
    return replace(subject, example=replace(subject.given, params={**subject.given.params, name: value}))


def _allowed(subject: Subject) -> bool:
    try:
        checked_params(subject.registered, dict(subject.given.params))
    except ConfigError:
        return False
    return True


def goes_together(subject: Subject) -> bool:
    """Whether the schema and the component's own check accept all the example's params at once."""
    if not _allowed(subject):
        return False
    own = subject.registered.component.check
    params = checked_params(subject.registered, dict(subject.given.params))
    weights = {name: weight for name, weight in subject.given.terms.items() if weight is not None}
    context = CheckContext(terms=weights, model_terms=len(weights) < len(subject.given.terms))
    return own is None or not list(own(params, context))


def edges(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each param with each value that the schema lists, and with each bound that is allowed itself."""
    for name, part in _options(schema):
        yield from ((name, part[bound]) for bound in ("minimum", "maximum") if bound in part)
        yield from ((name, each) for each in part.get("enum", ()))
        if _types(part) == {"boolean"}:
            yield from ((name, each) for each in (False, True))


def _extremes(subject: Subject) -> Iterator[tuple[str, Any]]:
    yield from edges(subject.registered.schema)
    if subject.kind not in HAND_WRITTEN:
        return
    for name, part in _options(subject.registered.schema):
        if not _types(part) & {"number", "integer"}:
            continue
        yield from ((name, each) for each in COMMON)
        step = STEP if "number" in _types(part) else 1
        inside = {"exclusiveMinimum": step, "exclusiveMaximum": -step}
        yield from ((name, part[bound] + within) for bound, within in inside.items() if bound in part)
        # Of anything but a loss a large number may be the size of a weight.
        if subject.kind in SCALARS:
            yield from ((name, each) for each in (LARGE, -LARGE))


def _outside(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, part in _options(schema):
        if "enum" in part:
            numbers = [each for each in part["enum"] if type(each) is int]
            yield name, max(numbers) + 1 if numbers else NOT_LISTED
        whole = "number" not in _types(part)
        step = 1 if whole else STEP
        bounds = {"minimum": -step, "maximum": step, "exclusiveMinimum": 0, "exclusiveMaximum": 0}
        found = [(part[bound] + beyond) for bound, beyond in bounds.items() if bound in part]
        yield from ((name, each) for each in found)
        if found and not whole:
            yield name, math.nan


def _options(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each param with what the schema says of it, and with each alternative."""
    for name, part in schema.get("properties", {}).items():
        yield from ((name, each) for each in (part, *part.get("anyOf", ()), *part.get("oneOf", ())))


def _types(part: Mapping[str, Any]) -> set[str]:
    named = part.get("type", ())
    return {named} if isinstance(named, str) else set(named)
