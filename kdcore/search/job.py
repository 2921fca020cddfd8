"""A trial as a worker gets it, and how the two talk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kdcore.search.record import State

# What a trial came to, in its folder.
OUTCOME = "outcome.json"


class Channel(Protocol):
    """How a worker talks to the search."""

    def tell(self, name: str, data: Any) -> None:
        """Say something that needs no answer."""

    def ask(self, name: str, data: Any) -> bool:
        """Say something, and return whether to go on."""


@dataclass(frozen=True)
class Job:
    """One run that a worker is to make.

    Arguments:
        number: of the trial.
        folder: where the run is, or will be; there already, perhaps with a run that was interrupted.
        config: the config file of the search.
        overrides: assignments that make the trial's config of it.
        plugins: plugin files that the user named.
        threads: how many threads torch may use; None leaves it as it is.
        measured: models whose cost is measured, each with the prefix of its measures: none for the searched one.
        required: measures that objectives and constraints name, with their prefixes.
        prelude: leave out all stages but so many at the beginning.
        output: a file for what libraries print.
        keep_states: whether the states of training are kept once the run has ended.
        slot: which of the jobs that run at once it is, counted from 0.
    """

    number: int
    folder: str
    config: str
    overrides: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    threads: int | None = None
    measured: tuple[tuple[str, str], ...] = ()
    required: tuple[str, ...] = ()
    prelude: int | None = None
    output: str | None = None
    keep_states: bool = False
    slot: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `state` is None for one that was interrupted and can go on."""

    state: State | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    epochs: int | None = None
