"""Every path of a search must be one of the config, and every value there a valid config."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdcore.config.checker import Checker
from kdcore.config.overrides import apply_overrides, resolved_path
from kdcore.config.source import Path, Source, dotted
from kdcore.config.trial import assignments
from kdcore.errors import ConfigError, Problem, suggestion
from kdcore.search.domain import Choices, Range
from kdcore.search.space import Parameter, Space
from kdcore.search.values import shown
from kdcore.search.walk import Walk

Check = Callable[[Source], list[Problem]]

_COMPANIONS = 6
_MAX_CHOICES = 64
_MAX_NOTED = 3
# Whose keys are names that the config gives: a new one is a misspelt old one.
_NAMED = {("models",), ("adapters",), ("data",)}


class ValueChecker:
    """Tries values out, one after the other, on a config without search.

    Arguments:
        checker: collects the problems.
        source: the config of a trial, without `search:`.
        resolved: the config's data with every default written out.
        check: returns what is wrong with a source.
    """

    def __init__(self, checker: Checker, source: Source, resolved: Mapping[str, Any], check: Check) -> None:
        self.checker = checker
        self.source = source
        self.resolved = resolved
        self.check = check
        self.known = {_identity(problem) for problem in check(source)}

    def path(self, text: str, where: Path, others: Collection[str] = ()) -> Path | None:
        """Return what the path `text`, the key at `where`, leads to; None, with a problem noted, if to nothing.

        It may lead into a whole value that one of `others` puts there.
        """
        try:
            path = resolved_path(self.resolved, text)
        except ConfigError as error:
            for problem in error.problems:
                self.checker.problem(f"{text}: {problem.what}", where, problem.repair, key=True)
            return None
        if path[0] == "search":
            self.checker.problem("a search cannot vary itself", where, "take it out", key=True)
            return None
        if any(text.startswith(f"{each}.") for each in others):
            return path
        steps = _existing(self.resolved, path)
        if steps < len(path) - 1 or (steps < len(path) and path[:-1] in _NAMED | {()}):
            known = [dotted(each, self.resolved) for each in _paths(self.resolved)]
            repair = suggestion(dotted(path, self.resolved), known, noun="paths")
            self.checker.problem(f"the config has no {dotted(path, self.resolved)}", where, repair, key=True)
            return None
        return path

    def overrides(self, values: Mapping[str, Any], where: Path) -> None:
        """Check values that are set together."""
        before = self.known
        for path, value in values.items():
            self._note(self._news({path: value}, before), value, (*where, path))

    def parameters(self, parameters: Sequence[Parameter], space: Space | None) -> None:
        """Check every choice, and the ends and the middle of every range; without a space, each by itself alone."""
        for parameter in parameters:
            where: Path = ("search", "space", parameter.path)
            tried = _tried(parameter)
            refused = [(step, value, self._refusal(space, parameter, value)) for step, value in tried]
            refused = [each for each in refused if each[2]]
            whats = {tuple(problem.what for problem in found) for _, _, found in refused}
            if len(refused) == len(tried) > 1 and len(whats) == 1:
                # It is not about the values.
                for problem in refused[0][2]:
                    self.checker.problem(f"{parameter.path}: {problem.what}", where, problem.repair, key=True)
                continue
            for step, value, found in refused:
                self._note(found, value, _value_path(self.checker.source, where, step))

    def _refusal(self, space: Space | None, parameter: Parameter, value: Any) -> list[Problem]:
        """Return what is wrong with a value, unless it is right beside other values of the space."""
        found = self._news({parameter.path: value}, self.known)
        if not found or space is None or len(space) == 1:
            return found
        fixed = [replace(each, domain=Choices([value])) if each is parameter else each for each in space]
        walk = Walk(fixed, space.exclude)
        if not walk.possible:
            return found
        generator = random.Random(0)
        for _ in range(_COMPANIONS):
            point = walk.sample(generator)
            if parameter.path in point and not self._news(point, self.known):
                return []
        return found

    def _news(self, values: Mapping[str, Any], known: set[tuple[str, str]]) -> list[Problem]:
        try:
            changed = apply_overrides(self.source, assignments(values))
        except ConfigError as error:
            return list(error.problems)
        return [problem for problem in self.check(changed) if _identity(problem) not in known]

    def _note(self, found: Sequence[Problem], value: Any, where: Path) -> None:
        for problem in found[:_MAX_NOTED]:
            below = f" ({problem.place.path})" if problem.place.path else ""
            more = f", and {len(found) - 1} more" if len(found) > _MAX_NOTED else ""
            what = f"{shown(value)} is not valid here: {problem.what}{below}{more}"
            self.checker.problem(what, where, problem.repair)
            if more:
                return


def _tried(parameter: Parameter) -> list[tuple[str | int, Any]]:
    domain = parameter.domain
    if isinstance(domain, Range):
        middle: Any = (domain.low + domain.high) / 2 if domain.size is None else domain.value((domain.size - 1) // 2)
        values = {"low": domain.low, "high": domain.high if domain.size is None else domain.value(domain.size - 1)}
        return [*values.items(), *([("high", middle)] if middle not in values.values() else [])]
    values_ = list(enumerate(domain))
    # Hundreds of choices are a range written out: the first, the last and some between tell as much.
    stride = -(-len(values_) // _MAX_CHOICES)
    return [*values_[::stride], *([values_[-1]] if (len(values_) - 1) % stride else [])]


def _value_path(source: Source, where: Path, step: str | int) -> Path:
    node: Any = source.data
    for each in where:
        node = node.get(each) if isinstance(node, dict) else None
    if isinstance(node, dict) and "choices" in node:
        return (*where, "choices", step)
    return (*where, step)


def _identity(problem: Problem) -> tuple[str, str]:
    return problem.what, problem.place.path


def _existing(data: Any, path: Path) -> int:
    """Return how many steps of `path` lead to something."""
    for count, step in enumerate(path):
        held = dict(enumerate(data)) if isinstance(data, list) else data
        if not isinstance(held, Mapping) or step not in held:
            return count
        data = held[step]
    return len(path)


def _paths(node: Any, path: Path = ()) -> Iterator[Path]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if (*path, key) != ("search",):
            yield (*path, key)
            yield from _paths(value, (*path, key))
