"""Where a run stands, how fast it goes and what is left: what every display that shows something shares."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kdcore.engine.progress.interface import Progress, StagePlan

Terms = Callable[[], Mapping[str, float]]


def clean(text: str) -> str:
    """Make one harmless line of a name: control characters must not steer the terminal."""
    return "".join(char if char.isprintable() else " " if char == "\n" else "?" for char in text)


class Tracked(Progress):
    """Counts stages, epochs, steps and seconds, and refreshes at most once per `interval` seconds."""

    interval = 0.25

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.name = ""
        self.folder = Path()
        self.stages: Sequence[StagePlan] = ()
        self.index = 0
        self.epoch = 0
        self.step = 0
        self.split = ""
        self.evaluated = 0
        self.to_evaluate = 0
        self._due = 0.0
        self._stage_start = 0.0
        self._epoch_start = 0.0
        self._steps_seen = 0
        self._epoch_times: list[float] = []
        self._ended = 0
        self._begun = 0

    @abstractmethod
    def refresh(self, terms: Terms | None) -> None:
        """Show where the run stands; `terms` reads the losses, where a step just ended."""

    @property
    def stage(self) -> StagePlan:
        """The plan of the current stage."""
        return self.stages[self.index]

    @property
    def place(self) -> str:
        """Which stage of how many this is."""
        return f"stage {self.index + 1}/{len(self.stages)}"

    def run_started(self, name: str, folder: Path, stages: Sequence[StagePlan]) -> None:
        """Take the plan, with names made harmless."""
        self.name, self.folder = clean(name), folder
        self.stages = [replace(plan, name=clean(plan.name), title=clean(plan.title)) for plan in stages]

    def stage_started(self, index: int) -> None:
        """Start the clock of the stage."""
        self.index, self.epoch, self.step, self.split = index, 0, 0, ""
        self._stage_start = self._epoch_start = self._clock()
        self._steps_seen, self._epoch_times, self._ended = 0, [], 0

    def epoch_started(self, epoch: int, step: int = 0) -> None:
        """Start the clock of the epoch."""
        self.epoch, self.step, self.split, self._ended = epoch + 1, step, "", epoch
        self._begun = step
        self._epoch_start = self._clock()

    def step_ended(self, terms: Terms) -> None:
        """Count; look at the clock, and at nothing else unless a refresh is due."""
        self.step += 1
        if self._clock() >= self._due:
            self._refresh(terms)

    def evaluating(self, split: str, total: int) -> None:
        """Start counting batches of `split`."""
        self.split, self.evaluated, self.to_evaluate = clean(split), 0, total

    def evaluated_batch(self) -> None:
        """Count, as `step_ended` does."""
        self.evaluated += 1
        if self._clock() >= self._due:
            self._refresh(None)

    def epoch_ended(self, epoch: int, metrics: Mapping[str, float], lr: Sequence[float]) -> None:
        """Take the time of the epoch."""
        if self._begun == 0:  # a part of an epoch says nothing about a whole one
            self._epoch_times.append(self._clock() - self._epoch_start)
        self._steps_seen += self.step - self._begun
        self.epoch, self.step, self.split, self._ended, self._begun = epoch + 1, 0, "", epoch + 1, 0
        self._epoch_start = self._clock()

    def _refresh(self, terms: Terms | None) -> None:
        self.refresh(terms)
        self._due = self._clock() + self.interval

    def stage_seconds(self) -> float:
        """Seconds since the stage started."""
        return self._clock() - self._stage_start

    def stage_left(self) -> float | None:
        """Seconds the stage will still take at its pace so far; None before there is any."""
        running = self._clock() - self._epoch_start
        if self._epoch_times:
            per_epoch = sum(self._epoch_times) / len(self._epoch_times)
            return max(0.0, per_epoch * (self.stage.epochs - self._ended) - running)
        made = self.step - self._begun
        if not made:
            return None
        steps_left = self.stage.steps_per_epoch * (self.stage.epochs - self._ended) - self.step
        return max(0.0, running / made * steps_left)

    def run_left(self) -> float | None:
        """Seconds the run will still take, if later stages go at this stage's pace per step."""
        left, steps = self.stage_left(), self._steps_seen + self.step - self._begun
        if left is None or not steps:
            return None
        per_step = self.stage_seconds() / steps
        return left + per_step * sum(plan.epochs * plan.steps_per_epoch for plan in self.stages[self.index + 1 :])
