"""What is wrong with the conditions of a search space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kdcore.errors import suggestion
from kdcore.search.condition import Condition

if TYPE_CHECKING:
    from kdcore.search.space import Parameter


class Flaw(NamedTuple):
    """One thing that is wrong; `where` is its path below `search:`."""

    what: str
    where: tuple[str | int, ...]
    repair: str = ""


def flaws(parameters: Sequence[Parameter], exclude: Sequence[Condition]) -> list[Flaw]:
    """Return what is wrong between parameters, each of which is sound by itself."""
    by_path = {each.path: each for each in parameters}
    found = [] if parameters else [Flaw("the search space has no parameters", ("space",), "add one: path: [values]")]
    for each in parameters:
        found += _unmet(each.when, by_path, ("space", each.path, "when"), "is active only if")
    for index, condition in enumerate(exclude):
        if not condition.tests:
            found.append(Flaw("an empty exclusion would exclude every point", ("exclude", index), "take it out"))
        found += _unmet(condition, by_path, ("exclude", index), "is excluded where")
    circle = _circle(by_path)
    if circle:
        chain = " needs ".join([*circle, circle[0]])
        found.append(Flaw(f"conditions go in a circle: {chain}", ("space", circle[0], "when"), "take out one of them"))
    elif not found:
        found += _never_active(by_path)
    return found


def _unmet(
    condition: Condition, by_path: Mapping[str, Parameter], where: tuple[str | int, ...], verb: str
) -> Iterator[Flaw]:
    for path, test in condition.tests.items():
        if path not in by_path:
            repair = suggestion(path, by_path, noun="parameters of the space")
            yield Flaw(f"the search space has no parameter {path!r}", (*where, path), repair)
            continue
        domain = by_path[path].domain
        if test.values is None:
            if not test.possible(domain):
                yield Flaw(f"this {verb} {path} is {test}, which it never is", (*where, path), f"it is {domain}")
            continue
        for value in test.values:
            if value not in domain:
                what = f"this {verb} {path} is {type(test)((value,))}, which it never is"
                yield Flaw(what, (*where, path), f"it is {domain}")


def _circle(by_path: Mapping[str, Parameter]) -> list[str]:
    """Return the parameters of one circle of conditions, in its order, if there is one."""
    settled: set[str] = set()
    for start in by_path:
        trail: list[str] = []
        path: str | None = start
        # Following one unsettled parent at a time runs into each circle, or settles what it has passed.
        while path is not None:
            if path in trail:
                return trail[trail.index(path) :]
            trail.append(path)
            parents = [each for each in by_path[path].when.tests if each in by_path and each not in settled]
            if parents:
                path = parents[0]
                continue
            settled.add(path)
            trail.pop()
            path = trail.pop() if trail else None
    return []


def _never_active(by_path: Mapping[str, Parameter]) -> Iterator[Flaw]:
    """Report conditions that exclude each other along a chain."""
    for path, parameter in by_path.items():
        needed: dict[str, list[Condition]] = {}
        waiting, seen = [parameter.when], set()
        while waiting:
            condition = waiting.pop()
            for parent in condition.tests:
                needed.setdefault(parent, []).append(condition)
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(by_path[parent].when)
        for parent, conditions in needed.items():
            domain = by_path[parent].domain
            tests = [condition.tests[parent] for condition in conditions]
            if domain.size is None or domain.size > 100_000 or any(all(test(v) for test in tests) for v in domain):
                continue
            what = f"{path} is never active: its conditions need {parent} to be {' and also '.join(map(str, tests))}"
            yield Flaw(what, ("space", path, "when"), "let the conditions of a chain overlap")
            break
