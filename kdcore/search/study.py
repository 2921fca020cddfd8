"""The loop of a search: points are suggested, trained and fed back, and nothing is lost or trained twice."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcore.config.search_config import SearchConfig
from kdcore.engine.interrupt import Interrupt, Interrupted
from kdcore.errors import KdcoreError, PluginError, RunError, suggestion
from kdcore.search.folder import SearchFolder, read_outcome
from kdcore.search.halving import Halving
from kdcore.search.job import Outcome
from kdcore.search.objectives import missing
from kdcore.search.progress import SearchProgress
from kdcore.search.record import State, Trial
from kdcore.search.runner import Runner
from kdcore.search.space import Point, point_key
from kdcore.search.unseen import draw_unseen
from kdcore.search.words import reason_of
from kdcore.search.workers import Event

if TYPE_CHECKING:
    from kdcore.contracts import Searcher

# Suggestions in a row that were all known already, before points are drawn instead.
MOST_REPEATS = 50
# Points in a row that broke a constraint before training, before the search ends.
MOST_INFEASIBLE = 500
_TICK_S = 0.2


@dataclass
class _Open:
    """A trial that has begun; `owed` is how often the searcher waits for its result."""

    point: Point
    owed: int = 1
    started: float = 0.0


class Study:
    """Runs a search to its end, or goes on with one.

    Arguments:
        search: what is searched.
        searcher: proposes points; set up already.
        folder: where results are kept.
        runner: trains points.
        progress: the display.
        seed: for points that are drawn where the searcher only repeats itself.
        trials: how many trials to train, beyond those on record; by default as many as `max_trials` leaves.
    """

    def __init__(
        self,
        search: SearchConfig,
        searcher: Searcher,
        folder: SearchFolder,
        runner: Runner,
        progress: SearchProgress,
        *,
        seed: int = 0,
        trials: int | None = None,
    ) -> None:
        self.search = search
        self.searcher = searcher
        self.folder = folder
        self.runner = runner
        self.progress = progress
        self.seed = seed
        self.trials: dict[int, Trial] = {}
        self._open: dict[int, _Open] = {}
        self._numbers: dict[str, int] = {}
        self._halving = Halving(search.stop_early, search.objectives[0]) if search.stop_early else None
        self._next = 0
        self._infeasible = 0
        self._seconds = 0.0
        self._clock = time.monotonic()
        self._restore()
        self.most = search.max_trials if trials is None else self._trained() + trials
        self.end: str | None = None

    def run(self, interrupt: Interrupt) -> None:
        """Search until a limit is reached or no point is left.

        Raises:
            Interrupted: a signal ended it; everything was saved first.
            RunError: a trial shows that the search cannot succeed.
        """
        self._clock, first = time.monotonic(), self._next
        with interrupt.deferred():
            try:
                for number in sorted(self._open):
                    self._start(number)
                while self._fill() or len(self.runner):
                    for event in self.runner.wait(_TICK_S):
                        self._handle(event)
                    interrupt.check()
                    self.progress.tick()
            except Interrupted:
                for event in self.runner.interrupt():
                    self._handle(event)
                self._save()
                raise
        already = " already; --trials N trains N more" if self._next == first else ""
        self.end = self.end or f"{self._trained()} trials are trained{already}"
        self._save()

    @property
    def seconds(self) -> float:
        """Seconds that the search has taken, earlier parts included."""
        return self._seconds + time.monotonic() - self._clock

    def _restore(self) -> None:
        state = self.folder.read_state()
        if not state.get("searcher"):
            self._save()
            return
        self.searcher.load_state_dict(state["searcher"])
        self._next, self._seconds = state["next"], state["seconds"]
        self._infeasible = state["infeasible"]
        if self._halving is not None:
            self._halving.load_state_dict(state["halving"])
        self.trials = {trial.number: trial for trial in self.folder.trials()}
        self._numbers = {point_key(trial.point): number for number, trial in self.trials.items()}
        for entry in state["open"]:
            open_ = _Open(entry["point"], entry["owed"], entry["started"])
            number = entry["number"]
            self._open[number] = open_
            self._numbers[point_key(open_.point)] = number
            # A search that was killed may have got further than its saved state says.
            outcome = read_outcome(self.folder.trial(number))
            if number in self.trials:
                self._learn(self.trials[number])
            elif outcome is not None:
                self._record(number, outcome)

    def _save(self) -> None:
        self.folder.write_state(
            {
                "format": 1,
                "searcher": self.searcher.state_dict(),
                "next": self._next,
                "infeasible": self._infeasible,
                "open": [
                    {"number": number, "point": each.point, "owed": each.owed, "started": each.started}
                    for number, each in self._open.items()
                ],
                "halving": self._halving.state_dict() if self._halving else {},
                "seconds": round(self.seconds, 3),
            }
        )

    def _fill(self) -> bool:
        """Begin trials while there is room for them; returns whether there was any."""
        begun = False
        while len(self.runner) < self.search.jobs and self.end is None and not self._enough():
            self.end = self._limit()
            point = self._suggest() if self.end is None else None
            if point is None:
                break
            number, self._next = self._next, self._next + 1
            self._open[number] = _Open(point, started=round(time.time(), 3))
            self._numbers[point_key(point)] = number
            self._save()
            self._start(number)
            begun = True
        return begun

    def _enough(self) -> bool:
        """Whether so many trials were trained or are in training that no more are wanted."""
        return self.most is not None and self._trained() + len(self._open) >= self.most

    def _trained(self) -> int:
        return sum(trial.state is not State.INFEASIBLE for trial in self.trials.values())

    def _start(self, number: int) -> None:
        point = self._open[number].point
        self.progress.trial_started(number, point)
        self.runner.start(number, point)

    def _limit(self) -> str | None:
        """Return why the search ends here, None if it goes on."""
        if self.search.timeout_s is not None and self.seconds >= self.search.timeout_s:
            return f"{self.search.timeout_s:g} seconds are over (timeout_s)"
        if self._infeasible >= MOST_INFEASIBLE:
            return f"the last {MOST_INFEASIBLE} points all broke a constraint: {self._broken()}"
        return None

    def _suggest(self) -> Point | None:
        """Return a point that was never tried; None if there is none."""
        for _ in range(MOST_REPEATS):
            point = self._proposed()
            if point is None:
                self.end = "the searcher has no more points"
                return None
            number = self._numbers.get(point_key(point))
            if number is None:
                return point
            self._repeat(number)
        return self._unseen()

    def _proposed(self) -> Point | None:
        """Return what the searcher suggests; raises PluginError if it fails, or leaves the space."""
        named = self.search.searcher.registered
        try:
            point = self.searcher.suggest()
        except KdcoreError:
            raise
        except Exception as error:  # a searcher may fail in any way; the cause is chained and named
            raise PluginError(f"{named} failed to suggest a point: {type(error).__name__}: {error}") from error
        if point is None:
            return None
        try:
            self.search.space.check(point)
        except KdcoreError as error:
            raise PluginError(f"{named} suggested a point outside the space: {error.problem.what}") from error
        return dict(point)

    def _repeat(self, number: int) -> None:
        """Answer a point that was suggested before with what is known of it, now or when its trial ends."""
        if number in self._open:
            self._open[number].owed += 1
        else:
            self.searcher.feedback(dict(self.trials[number].point), self._fed(self.trials[number]))

    def _unseen(self) -> Point | None:
        """Draw a point that was never tried, where the searcher only suggests what is known."""
        space = self.search.space
        point = draw_unseen(space, self._numbers, random.Random(f"{self.seed}/unseen/{self._next}"))
        if point is None:
            size = space.size()
            self.end = "no new point was found" if size is None else f"all {size} points of the space were tried"
        return point

    def _handle(self, event: Event) -> None:
        if event.kind == "told":
            self.progress.trial_advanced(event.number, event.data)
        elif event.kind == "asked":
            self.runner.answer(event.number, self._decide(event))
        elif event.kind == "died":
            self._record(event.number, Outcome(State.FAILED, reason=event.data, seconds=self._age(event.number)))
        elif event.data.state is not None:
            self._record(event.number, event.data)

    def _decide(self, event: Event) -> bool:
        if event.name == "measured":
            known = [each for each in self.search.constraints if each.metric in event.data]
            return all(each.holds(event.data) for each in known)
        if self._halving is None:
            return True
        return self._halving.goes_on(event.number, event.data["epoch"], event.data["metrics"])

    def _record(self, number: int, outcome: Outcome) -> None:
        open_ = self._open[number]
        folder = self.folder.trial(number)
        state = State.COMPLETE if outcome.state is None else outcome.state
        trial = Trial(
            number,
            open_.point,
            state,
            outcome.metrics,
            outcome.reason or reason_of(state, outcome, self.search.constraints),
            outcome.seconds,
            str(folder.relative_to(self.folder.path)) if folder.is_dir() else None,
            outcome.epochs,
            open_.started,
        )
        self.folder.append(trial)
        self._learn(trial)
        self._save()
        self.progress.trial_ended(trial)
        if trial.state is State.COMPLETE:
            self._check_metrics(trial)

    def _learn(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self._infeasible = self._infeasible + 1 if trial.state is State.INFEASIBLE else 0
        for _ in range(self._open.pop(trial.number).owed):
            self.searcher.feedback(dict(trial.point), self._fed(trial))

    def _fed(self, trial: Trial) -> Mapping[str, float] | None:
        """Return what the searcher is told: nothing of a trial that has no value for some objective."""
        known = trial.state in (State.COMPLETE, State.STOPPED)
        lacking = missing(self.search.objectives, self.search.constraints, trial.metrics)
        return dict(trial.metrics) if known and not lacking else None

    def _check_metrics(self, trial: Trial) -> None:
        lacking = missing(self.search.objectives, self.search.constraints, trial.metrics)
        if lacking:
            name = lacking[0]
            raise RunError(
                f"trial {trial.number} ran to its end and has no metric {name!r}, which the search is about",
                place=self.search.place,
                repair=f"{suggestion(name, trial.metrics)} There are {', '.join(sorted(trial.metrics))}",
            )

    def _broken(self) -> str:
        latest = max(number for number, trial in self.trials.items() if trial.state is State.INFEASIBLE)
        return self.trials[latest].reason or ""

    def _age(self, number: int) -> float:
        return round(max(0.0, time.time() - self._open[number].started), 3)
