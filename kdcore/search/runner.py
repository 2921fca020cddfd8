"""What trains trials: worker processes that make ordinary runs, or a function of the user's."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdcore.search.job import Job, Outcome
from kdcore.search.record import State
from kdcore.search.space import Point
from kdcore.search.workers import Event, Workers


class Runner(Protocol):
    """Trains points, several at once or one by one."""

    def __len__(self) -> int:
        """How many are being trained."""

    def start(self, number: int, point: Point) -> None:
        """Begin with a trial, or go on with one that was interrupted."""

    def wait(self, timeout: float) -> Sequence[Event]:
        """Return what has happened, after `timeout` seconds at the latest."""

    def answer(self, number: int, go: bool) -> None:
        """Answer what a trial asked."""

    def interrupt(self) -> Iterator[Event]:
        """Let all trials save their state and end; yields what they still tell."""


class Runs:
    """Makes each trial an ordinary run in a process of its own.

    Arguments:
        workers: the processes.
        job: makes the job of a trial.
    """

    def __init__(self, workers: Workers, job: Callable[[int, Point], Job]) -> None:
        self._workers = workers
        self._job = job

    def __len__(self) -> int:
        return len(self._workers)

    def start(self, number: int, point: Point) -> None:
        """Begin with a trial, or go on with one that was interrupted."""
        job = self._job(number, point)
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        self._workers.start(job)

    def wait(self, timeout: float) -> Sequence[Event]:
        """Return what has happened."""
        return self._workers.wait(timeout)

    def answer(self, number: int, go: bool) -> None:
        """Answer what a trial asked."""
        self._workers.answer(number, go)

    def interrupt(self) -> Iterator[Event]:
        """Let all trials save their state and end."""
        return self._workers.interrupt()


class Calls:
    """Calls the user's function for one point after the other, in this process.

    Arguments:
        function: takes a point and returns its metrics; one that raises is a trial that failed.
    """

    def __init__(self, function: Callable[[dict[str, Any]], Mapping[str, float]]) -> None:
        self._function = function
        self._ahead: list[tuple[int, Point]] = []

    def __len__(self) -> int:
        return len(self._ahead)

    def start(self, number: int, point: Point) -> None:
        """Put a point in line."""
        self._ahead.append((number, dict(point)))

    def wait(self, timeout: float) -> Sequence[Event]:
        """Call the function for the first point in line."""
        if not self._ahead:
            return []
        number, point = self._ahead[0]
        started = time.perf_counter()
        try:
            metrics = _as_metrics(self._function(point))
            state, reason = State.COMPLETE, None
        except Exception as error:  # whatever fails, the search goes on and keeps the reason
            metrics, state, reason = {}, State.FAILED, _reason(error)
        self._ahead.pop(0)
        return [Event(number, "ended", data=Outcome(state, metrics, reason, round(time.perf_counter() - started, 3)))]

    def answer(self, number: int, go: bool) -> None:
        """Do nothing: functions ask nothing."""

    def interrupt(self) -> Iterator[Event]:
        """Forget what is in line; a point that was interrupted is tried again."""
        self._ahead.clear()
        return iter(())


def _as_metrics(found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise TypeError(f"train_and_evaluate must return a mapping of metrics, found {type(found).__name__}")
    return {str(name): float(value) for name, value in found.items()}


def _reason(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
