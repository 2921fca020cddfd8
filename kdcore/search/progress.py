"""Progress of a search, as people follow it: live in a terminal, as lines in a log, or not at all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kdcore.engine import measure
from kdcore.search.front import front_of, ranked
from kdcore.search.objectives import Constraint, Objective
from kdcore.search.record import State, Trial
from kdcore.search.space import Point
from kdcore.search.words import describe_metrics, describe_point

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class SearchPlan:
    """What a display needs to know of a search; `trials` is how many are trained at most."""

    name: str
    folder: Path
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]
    trials: int | None
    jobs: int
    points: int | None


class SearchProgress:
    """Follows a search and writes nothing; displays override what they show.

    `width` is how many cells a line may have, None for any number.
    """

    width: int | None = None

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self.plan: SearchPlan | None = None
        self.trials: dict[int, Trial] = {}
        self.running: dict[int, Mapping[str, Any]] = {}
        self.points: dict[int, Point] = {}
        self.earlier = 0

    def search_started(self, plan: SearchPlan, trials: Mapping[int, Trial]) -> None:
        """Begin, or go on after the `trials` on record."""
        self.plan, self.trials, self.earlier = plan, dict(trials), self._trained(trials)
        self._started = self._clock()

    def trial_started(self, number: int, point: Point) -> None:
        """Begin a trial."""
        self.running[number], self.points[number] = {}, point

    def trial_advanced(self, number: int, data: Mapping[str, Any]) -> None:
        """Take note of a stage that began or an epoch that ended."""
        self.running[number] = data

    def trial_ended(self, trial: Trial) -> None:
        """End a trial."""
        self.running.pop(trial.number, None)
        self.trials[trial.number] = trial

    def phase(self, title: str, total: int) -> None:
        """Begin something else than trials: stages that all share, or full distillations."""

    def run_ended(self, number: int) -> None:
        """End a run that is no trial: of shared stages, or a full distillation."""
        self.running.pop(number, None)

    def tick(self) -> None:
        """Called a few times a second while the search waits."""

    def message(self, text: str) -> None:
        """Tell the user something."""

    def search_ended(self, lines: Sequence[str]) -> None:
        """End with lines for people: the table of what was found, and where it lies."""

    def close(self) -> None:
        """Give the terminal back as it was; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def trained(self) -> int:
        """How many trials were trained, earlier parts of the search included."""
        return self._trained(self.trials)

    def seconds_left(self) -> float | None:
        """Seconds that the trials still to come will take at the pace so far; None where nobody knows."""
        made = self.trained - self.earlier
        if self.plan is None or self.plan.trials is None or made <= 0:
            return None
        per_trial = (self._clock() - self._started) / made
        return per_trial * max(0, self.plan.trials - self.trained)

    def standing(self) -> tuple[Trial | None, list[Trial]]:
        """Return the best trial so far and the front."""
        if self.plan is None:
            return None, []
        front = front_of(self.trials.values(), self.plan.objectives, self.plan.constraints)
        return (ranked(front, self.plan.objectives) or [None])[0], front  # type: ignore[list-item]

    @staticmethod
    def _trained(trials: Mapping[int, Trial]) -> int:
        return sum(trial.state is not State.INFEASIBLE for trial in trials.values())


class PlainSearchProgress(SearchProgress):
    """Writes a line for each trial that has ended."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console

    def search_started(self, plan: SearchPlan, trials: Mapping[int, Trial]) -> None:
        """Print what is searched, and where."""
        super().search_started(plan, trials)
        size = "infinitely many" if plan.points is None else f"{plan.points:,}"
        most = "" if plan.trials is None else f", at most {plan.trials} trials"
        at_once = f", {plan.jobs} at once" if plan.jobs > 1 else ""
        self._print(f"search {plan.name}: {size} points{most}{at_once}, {plan.folder}")
        if trials:
            self._print(f"going on after {len(trials)} trials on record")

    def trial_ended(self, trial: Trial) -> None:
        """Print how the trial ended, and where the search stands."""
        super().trial_ended(trial)
        assert self.plan is not None
        best, front = self.standing()
        total = "" if self.plan.trials is None else f"/{self.plan.trials}"
        parts = [describe_metrics(trial, self.plan.objectives)] if trial.state is State.COMPLETE else []
        if trial.state is not State.COMPLETE:
            parts.append(f"{trial.state}: {trial.reason or ''}".rstrip(": "))
        parts.append(describe_point(trial.point))
        if trial.seconds is not None:
            parts.append(measure.show_duration(trial.seconds))
        standing = "" if best is None else f"best {best.number}" + (f", front {len(front)}" if len(front) > 1 else "")
        left = self.seconds_left()
        ahead = "" if left is None or not left else f"{measure.show_duration(left)} left"
        parts.append(", ".join(filter(None, [f"{self.trained}{total} trained", standing, ahead])))
        self._print(f"  trial {trial.number}  " + "  ".join(parts))

    def phase(self, title: str, total: int) -> None:
        """Print what begins."""
        if total:
            self._print(f"{title}: {total} run{'s' * (total != 1)}")

    def message(self, text: str) -> None:
        """Print `text`."""
        self._print(text)

    def search_ended(self, lines: Sequence[str]) -> None:
        """Print the lines."""
        self._print("\n".join(lines))

    def _print(self, text: str) -> None:
        encoding = self._console.encoding
        text = text.encode(encoding, "replace").decode(encoding)
        self._console.print(text, style=None, markup=False, highlight=False, emoji=False, soft_wrap=True)


def make_search_progress(console: Console | None = None, *, quiet: bool = False) -> SearchProgress:
    """Return the display that fits where the output goes: live in a terminal, lines elsewhere, none if quiet."""
    if quiet:
        return SearchProgress()
    from rich.console import Console

    from kdcore.search.live import LiveSearchProgress

    if console is not None:
        live = console.is_terminal and not console.is_dumb_terminal
    else:
        live = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
        console = Console() if live else Console(force_terminal=False, color_system=None)
    return LiveSearchProgress(console) if live else PlainSearchProgress(console)
