"""A search while it runs: shared stages, trials, full distillations, and what is written at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.advice import Advice
from kdcore.engine.interrupt import Abandoned, Interrupt, Interrupted
from kdcore.errors import RunError
from kdcore.search.base import Base
from kdcore.search.batch import run_batch
from kdcore.search.folder import SearchFolder, read_outcome
from kdcore.search.front import chosen, front_of, ranked
from kdcore.search.job import Job, Outcome
from kdcore.search.progress import SearchPlan, SearchProgress
from kdcore.search.record import State, Trial
from kdcore.search.results import result_lines, write_results
from kdcore.search.runner import Calls, Runner, Runs
from kdcore.search.study import Study
from kdcore.search.trial_jobs import TrialJobs
from kdcore.search.workers import Workers

if TYPE_CHECKING:
    from kdcore.contracts import Searcher

Function = Callable[[dict[str, Any]], Mapping[str, float]]


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Arguments:
        folder: of the search.
        trials: all that have ended, by number.
        front: the trials that no other one dominates; with one objective the best one.
        best: the trial of the front with the best weighted mean of the objectives; None if there is no front.
        finals: the full distillations, by the number of the trial whose point they have.
    """

    folder: Path
    trials: list[Trial]
    front: list[Trial]
    best: Trial | None
    finals: list[Trial]


class Running:
    """A search while it runs.

    Arguments:
        base: what it starts from.
        folder: where it leaves what it finds; locked.
        progress: the display.
        interrupt: whether somebody wants it to end.
        plugins: plugin files that its trials need.
        advice: how users are told to go on with it.
    """

    def __init__(
        self,
        base: Base,
        folder: SearchFolder,
        progress: SearchProgress,
        interrupt: Interrupt,
        plugins: Sequence[str],
        advice: Advice,
    ) -> None:
        self.base = base
        self.search = base.search
        self.folder = folder
        self.progress = progress
        self.interrupt = interrupt
        self.plugins = plugins
        self.advice = advice
        self.jobs: TrialJobs | None = None

    def run(
        self,
        searcher: Searcher,
        function: Function | None,
        trials: int | None,
    ) -> SearchResult:
        """Search to the end, or go on, and distil what was chosen in full."""
        try:
            with self._runner(function) as (runner, workers):
                study = Study(
                    self.search, searcher, self.folder, runner, self.progress, seed=self.base.seed, trials=trials
                )
                self.progress.search_started(self._plan(study.most), study.trials)
                if workers is not None:
                    self._prelude(workers)
                study.run(self.interrupt)
                if study.end:
                    self.progress.message(f"the search ended: {study.end}")
                if workers is not None:
                    self._finals(workers, study)
        except Interrupted as signal:
            signal.advice = f"all is saved; {self.advice.resume(self.folder.path)} goes on from there"
            raise
        except Abandoned as signal:
            signal.advice = f"{self.advice.resume(self.folder.path)} goes on from there"
            raise
        finally:
            with self.interrupt.deferred():
                self._write()
        return self._result()

    @contextlib.contextmanager
    def _runner(self, function: Function | None) -> Iterator[tuple[Runner, Workers | None]]:
        if function is not None:
            yield Calls(function), None
            return
        assert self.base.config is not None
        self.jobs = TrialJobs(self.base.config, self.search, self.folder, self.plugins, self.base.registry)
        with Workers(self.jobs.modules()) as workers:
            yield Runs(workers, self.jobs.trial), workers

    def _plan(self, most: int | None) -> SearchPlan:
        search = self.search
        size = search.space.size()
        return SearchPlan(
            self.base.name, self.folder.path, search.objectives, search.constraints, most, search.jobs, size
        )

    def _prelude(self, workers: Workers) -> None:
        """Train what no parameter reaches, once."""
        assert self.jobs is not None
        job = self.jobs.prelude()
        if job is None or _has_ended(job):
            return
        failed: list[str] = []

        def ended(job: Job, outcome: Outcome) -> None:
            if outcome.state is not State.COMPLETE:
                failed.append(outcome.reason or "")

        self.progress.phase("stages that all trials share", 1)
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        run_batch([job], workers, 1, self.interrupt, self.progress, ended)
        if failed:
            raise RunError(f"the stages that all trials share have failed: {failed[0]}", place=self.search.place)
        if not _has_ended(job):
            raise RunError(
                "the process of the stages that all trials share was told to end before they were trained",
                place=self.search.place,
                repair=f"{self.advice.resume(self.folder.path)} goes on from there",
            )
        self.progress.phase("", 0)

    def _finals(self, workers: Workers, study: Study) -> None:
        """Distil the chosen points in full."""
        assert self.jobs is not None
        if self.search.final is None:
            return
        front = front_of(study.trials.values(), self.search.objectives, self.search.constraints)
        picked = chosen(self.search.final, front, self.search.objectives)
        done = {trial.number for trial in self.folder.final_trials()}
        ahead = {trial.number: trial for trial in picked if trial.number not in done}
        at_once = min(self.search.jobs, max(1, len(ahead)))
        jobs = [self.jobs.final(trial.number, dict(trial.point), at_once) for trial in ahead.values()]
        for job in jobs:
            Path(job.folder).mkdir(parents=True, exist_ok=True)

        def ended(job: Job, outcome: Outcome) -> None:
            self._record_final(ahead[job.number].point, job, outcome)

        if jobs:
            self.progress.phase("full distillations", len(jobs))
            run_batch(jobs, workers, at_once, self.interrupt, self.progress, ended)

    def _record_final(self, point: Mapping[str, Any], job: Job, outcome: Outcome) -> None:
        state = outcome.state or State.FAILED
        folder = str(Path(job.folder).relative_to(self.folder.path))
        trial = Trial(
            job.number, point, state, outcome.metrics, outcome.reason, outcome.seconds, folder, outcome.epochs
        )
        self.folder.append_final(trial)
        self.progress.message(f"full distillation of trial {job.number}: {state} {outcome.reason or ''}".rstrip())

    def _write(self) -> None:
        write_results(self.folder, self.base, self.progress.message)

    def _result(self) -> SearchResult:
        trials, search = self.folder.trials(), self.search
        front = front_of(trials, search.objectives, search.constraints)
        self.progress.search_ended(result_lines(self.folder, self.base, self.progress.width))
        if not any(trial.state is State.COMPLETE for trial in trials):
            reasons = [trial.reason for trial in trials if trial.reason]
            raise RunError(
                f"no trial came to its end: {len(trials)} were begun"
                + (f"; the first: {reasons[0]}" if reasons else ""),
                repair=f"{self.folder.results} says why",
            )
        best = (ranked(front, search.objectives) or [None])[0]  # type: ignore[list-item]
        return SearchResult(self.folder.path, trials, front, best, self.folder.final_trials())


def _has_ended(job: Job) -> bool:
    outcome = read_outcome(Path(job.folder))
    return outcome is not None and outcome.state is State.COMPLETE
