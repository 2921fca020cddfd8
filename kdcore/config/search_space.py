"""From the data under `search: space:` and `exclude:` to a Space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kdcore.errors import ConfigError
from kdcore.search.condition import Condition, Test
from kdcore.search.domain import Choices, Domain, Range, range_problems
from kdcore.search.flaws import Flaw, flaws
from kdcore.search.space import Parameter, Space

_KEYS = ("choices", "low", "high", "step", "log", "when")


class Read(NamedTuple):
    """What could be read: parameters that are sound by themselves, the space if it is sound, and what is wrong."""

    parameters: list[Parameter]
    space: Space | None
    flaws: list[Flaw]


def read_space(space: Any, exclude: Any) -> Read:
    """Return what the two sections describe; what the config's schema refuses is passed over here."""
    found: list[Flaw] = []
    entries = space.items() if isinstance(space, Mapping) else ()
    parameters = [each for path, node in entries for each in _parameter(path, node, found)]
    exclusions = [_condition(node) for node in (exclude if isinstance(exclude, list) else ())]
    sound = not found and len(parameters) == len(entries) and all(each is not None for each in exclusions)
    conditions = [each for each in exclusions if each is not None]
    if not sound or not parameters:
        return Read(parameters, None, found)
    found += flaws(parameters, conditions)
    if found:
        return Read(parameters, None, found)
    try:
        return Read(parameters, Space(parameters, conditions), [])
    except ConfigError as error:
        flaws_ = [Flaw(problem.what, ("exclude",), problem.repair) for problem in error.problems]
        return Read(parameters, None, flaws_)


def _parameter(path: str, node: Any, found: list[Flaw]) -> Iterator[Parameter]:
    given = {"choices": node} if isinstance(node, list) else node
    if not isinstance(given, Mapping) or not given.keys() <= {*_KEYS}:
        return
    domain = _domain(path, given, found)
    when = _condition(given["when"]) if "when" in given else Condition()
    if domain is not None and when is not None:
        yield Parameter(path, domain, when)


def _domain(path: str, given: Mapping[str, Any], found: list[Flaw]) -> Domain | None:
    if "choices" in given:
        values = given["choices"]
        return Choices(values) if isinstance(values, list) and values and given.keys() <= {"choices", "when"} else None
    numbers = [given.get("low"), given.get("high"), *([given["step"]] if "step" in given else [])]
    if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in numbers):
        return None
    integer = all(isinstance(each, int) for each in numbers)
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    problems = list(range_problems(low, high, step, log, integer))
    if problems:
        # The schema has already refused such a step.
        found += [Flaw(what, ("space", path), _repair(what)) for what in problems if not what.startswith("step must")]
        return None
    return Range(low, high, step, bool(log), integer)


def _repair(what: str) -> str:
    if "empty" in what:
        return "exchange low and high"
    return "give low a value above 0" if "above 0" in what else "take one of them out, or list the choices"


def _condition(node: Any) -> Condition | None:
    if not isinstance(node, Mapping) or not node:
        return None
    tests = {path: _test(value) for path, value in node.items()}
    return Condition({path: test for path, test in tests.items() if test}) if all(tests.values()) else None


def _test(node: Any) -> Test | None:
    if isinstance(node, list):
        return Test(values=tuple(node)) if node else None
    if not isinstance(node, Mapping):
        return Test(values=(node,))
    if not node or not node.keys() <= {"low", "high"}:
        return None
    ends = [node.get("low"), node.get("high")]
    if any(isinstance(each, bool) or not isinstance(each, (int, float, type(None))) for each in ends):
        return None
    return Test(low=ends[0], high=ends[1])
