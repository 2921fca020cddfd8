"""How sparse the k-th masks are, and in which steps they are made. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from kdcore.errors import WiringError
from kdcore.pruning.config import AUTO, PruningGroup


def sparsity_at(kind: str, index: int, count: int, target: float, initial: float = 0.0, most: float = 1.0) -> float:
    """Return the sparsity of the masks made for the `index`-th time, counted from 0.

    With `a = min(target, most)`, `s` the initial sparsity, `k` the index and `n` the count:

        linear        s + (a - s) k / n
        cosine        s + (a - s) (1 - cos(k pi / 2n))
        cubic         s + (a - s) (k / n)^3
        exponential   1 - (1 - s) ((1 - a) / (1 - s))^(k / n)

    and never above the target. Neural Compressor 2.6, `PatternPytorch` schedulers; its `cube` is the power 3
    of the progress, which begins slowly, and not the curve of Zhu and Gupta (To Prune, or Not to Prune, 2017).

    Arguments:
        kind: a type of schedule; `one_shot` has the target at once.
        index: k, at least 0.
        count: n, the index of the last masks.
        target: in [0, 1).
        initial: in [0, 1).
        most: the highest sparsity of a layer.
    """
    goal = min(target, most)
    if kind == "one_shot":
        return goal
    part = index / count
    if kind == "linear":
        found = (goal - initial) * part + initial
    elif kind == "cosine":
        found = (goal - initial) * (1 - math.cos(part * math.pi / 2)) + initial
    elif kind == "cubic":
        found = (goal - initial) * part**3 + initial
    else:
        found = 1 - (1 - initial) * ((1 - goal) / (1 - initial)) ** part
    return min(target, found)


@dataclass(frozen=True)
class Schedule:
    """A schedule in steps.

    Arguments:
        kind: its type.
        target: the sparsity at its end.
        start: the step of the first masks.
        every: steps from one to the next.
        count: the index of the last masks; 0 where there are masks only once.
    """

    kind: str
    target: float
    start: int
    every: int
    count: int

    @classmethod
    def of(cls, group: PruningGroup, total_steps: int | None = None, steps_per_epoch: int | None = None) -> Self:
        """Resolve a group's schedule; raises WiringError where it does not fit the steps."""
        written = group.schedule
        unit = 1
        if written.unit == "epoch":
            if steps_per_epoch is None:
                raise WiringError(
                    "a schedule in epochs needs to know how many steps an epoch has",
                    place=group.at("schedule", "unit"),
                    repair="pass steps_per_epoch=..., or use unit: step",
                )
            unit = steps_per_epoch
        start = written.start * unit
        if written.type in ("one_shot", "locked"):
            _check_start(group, start, total_steps)
            return cls(written.type, group.target_sparsity, start, 1, 0)
        end = _end(group, start, unit, total_steps)
        every = written.every * unit if written.every else _every(written.unit, end - start, unit)
        count = (end - start) // every
        if count < 1:
            raise WiringError(
                f"from step {start} to step {end} there is no second pruning with every: {every} steps, and the first "
                f"of a {written.type} schedule removes nothing",
                place=group.at("schedule"),
                repair="raise end, lower every, or use type: one_shot",
            )
        return cls(written.type, group.target_sparsity, start, every, count)

    @property
    def last(self) -> int:
        """The step of the last masks."""
        return self.start + self.count * self.every

    def due(self, step: int) -> bool:
        """Whether masks are made in a step."""
        return self.start <= step <= self.last and (step - self.start) % self.every == 0

    def sparsity(self, step: int, initial: float = 0.0) -> float:
        """Return the sparsity of the masks that stand after a step, `initial` before the first."""
        if step < self.start:
            return initial
        index = min((step - self.start) // self.every, self.count)
        # The ends are exact, whatever rounding says.
        if index == self.count:
            return self.target
        return sparsity_at(self.kind, index, self.count, self.target, initial) if index else initial


def _every(unit: str, window: int, steps: int) -> int:
    return steps if unit == "epoch" else max(1, min(100, window // 10))


def _end(group: PruningGroup, start: int, unit: int, total_steps: int | None) -> int:
    written = group.schedule
    if written.end == AUTO:
        if total_steps is None:
            raise WiringError(
                "the end of the schedule is auto, three quarters of all steps, but the number of steps is not known",
                place=group.at("schedule"),
                repair="pass total_steps=..., or set schedule.end",
            )
        _check_start(group, start, total_steps)
        return max(start, min(3 * total_steps // 4, total_steps - 1))
    end = int(written.end) * unit
    if total_steps is not None and end > total_steps:
        raise WiringError(
            f"the schedule ends at {_counted(written.end, written.unit, end)}, but there are only {total_steps} steps",
            place=group.at("schedule", "end"),
            repair=f"set end to {total_steps // unit} or less, train longer, or write end: auto",
        )
    # The number of steps itself stands for the last one.
    return end if total_steps is None else min(end, total_steps - 1)


def _check_start(group: PruningGroup, start: int, total_steps: int | None) -> None:
    if total_steps is not None and start >= total_steps:
        written = group.schedule
        raise WiringError(
            f"the schedule starts at {_counted(written.start, written.unit, start)}, but there are only {total_steps} "
            "steps, counted from 0",
            place=group.at("schedule", "start"),
            repair="set start earlier, or train longer",
        )


def _counted(written: object, unit: str, steps: int) -> str:
    return f"step {steps}" if unit == "step" else f"epoch {written} (step {steps})"
