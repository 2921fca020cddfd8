"""The errors users see: what is wrong, where, what was found, and the repair."""

from __future__ import annotations

import copy
import copyreg
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class Place:
    """Where something stands: a position in a file, a path inside the config, or both."""

    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        position = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (position, self.path) if part)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it stands and what repairs it."""

    what: str
    place: Place = Place()
    repair: str = ""

    def __str__(self) -> str:
        where = str(self.place)
        text = f"{where}: {self.what}" if where else self.what
        return f"{text}\n    {self.repair}" if self.repair else text


class KdcoreError(Exception):
    """Base of every error that a user can repair; the command line prints it without a traceback."""

    def __init__(self, what: str, *, place: Place = Place(), repair: str = "") -> None:
        self.problem = Problem(what, place, repair)
        super().__init__(str(self.problem))

    def at(self, place: Place) -> Self:
        """Return a copy of the error with the place in the config that it is about, unless it has one.

        A copy in any case: `raise error.at(place) from error` keeps what the error itself came from.
        """
        return self._with(self.problem if str(self.problem.place) else replace(self.problem, place=place))

    def adding(self, circumstance: str) -> Self:
        """Return the same error with more said about what happened."""
        return self._with(replace(self.problem, what=f"{self.problem.what} ({circumstance})"))

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by way of __init__, whose arguments differ from class to class: errors are copied and cross processes.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def _with(self, problem: Problem) -> Self:
        twin = copy.copy(self)
        twin.problem = problem
        twin.args = (str(problem),)
        return twin


class ConfigError(KdcoreError):
    """Everything that is wrong with a config, found in one pass."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{count} error{'s' if count != 1 else ''} in the config"
        Exception.__init__(self, "\n".join([head, *map(str, self.problems)]))

    def at(self, place: Place) -> Self:
        """Return a copy: each problem has a place of its own."""
        return copy.copy(self)

    def adding(self, circumstance: str) -> Self:
        """Return a copy: each problem says all there is."""
        return copy.copy(self)


class PluginError(KdcoreError):
    """A component is unknown, offered twice, or its plugin is broken."""


class AddressError(KdcoreError):
    """An address does not follow the grammar, or names something that does not exist."""

    def __init__(self, address: object, what: str, *, place: Place = Place(), repair: str = "") -> None:
        self.address = "" if address is None else str(address)
        super().__init__(f"{address}: {what}" if self.address else what, place=place, repair=repair)


class WiringError(KdcoreError):
    """The parts of a stage do not fit together."""


class WeightsError(KdcoreError):
    """Weights are missing, unreadable, or do not fit the model."""


class DataError(KdcoreError):
    """A data set is empty or yields something that cannot be used."""


class RunError(KdcoreError):
    """A run cannot start or go on."""


class EndedElsewhereError(RunError):
    """Another process of the run failed and says why; this one, of that rank, has nothing to add."""

    def __init__(self, rank: int) -> None:
        super().__init__(f"process {rank} ended because another process of the run failed, which says why")


def nearest(word: str, options: Iterable[str], limit: int = 3) -> list[str]:
    """Return the options most like `word`, best first."""
    by_fold: dict[str, str] = {}
    for option in sorted(set(options), reverse=True):
        by_fold[option.casefold()] = option
    return [by_fold[each] for each in difflib.get_close_matches(word.casefold(), sorted(by_fold), n=limit, cutoff=0.5)]


def suggestion(word: str, options: Iterable[str], *, noun: str = "names") -> str:
    """Return a repair for an unknown word: the nearest options, else all of them."""
    known = sorted(set(options))
    close = nearest(word, known)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    if not known:
        return f"there are no {noun} to choose from"
    shown = ", ".join(known[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
    return f"known {noun}: {shown}"
