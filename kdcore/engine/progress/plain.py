"""Progress as lines of a log: no control characters, one line per epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from kdcore.engine import measure
from kdcore.engine.measure import MetricName
from kdcore.engine.progress.interface import StagePlan
from kdcore.engine.progress.table import plain_table, result_columns
from kdcore.engine.progress.tracked import Terms, Tracked, clean
from kdcore.engine.row import parse_rows


class PlainProgress(Tracked):
    """Writes a line per epoch, and a sign of life every ten minutes of an epoch that is longer.

    A line takes what fits into the console's width (80 columns in a file, or `COLUMNS`), the most
    telling values first; metrics.jsonl holds them all.
    """

    interval = 600.0

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._run_start = clock()

    def run_started(self, name: str, folder: Path, stages: Sequence[StagePlan]) -> None:
        """Print what is run, and where."""
        super().run_started(name, folder, stages)
        self._run_start = self._clock()
        self._print(f"run {self.name}: {_plural(len(stages), 'stage')}, {folder}")

    def stage_started(self, index: int) -> None:
        """Print how long the stage is meant to be."""
        super().stage_started(index)
        plan = self.stage
        self._print(
            f"{self.place} {plan.title}: {_plural(plan.epochs, 'epoch')} of {_plural(plan.steps_per_epoch, 'step')}"
        )
        self._due = self._clock() + self.interval

    def epoch_started(self, epoch: int, step: int = 0) -> None:
        """Start the clock of the next sign of life."""
        super().epoch_started(epoch, step)
        self._due = self._clock() + self.interval

    def refresh(self, terms: Terms | None) -> None:
        """Print a sign of life."""
        if self.split:
            self._print(f"  evaluating {self.split}: batch {self.evaluated}/{self.to_evaluate or '?'}")
            return
        left = self.stage_left()
        losses = ", ".join(f"{name} {measure.show_number(value)}" for name, value in (terms() if terms else {}).items())
        ahead = f"  {measure.show_duration(left)} left" if left is not None else ""
        self._print(f"  epoch {self.epoch} step {self.step}/{self.stage.steps_per_epoch}  {losses}{ahead}")

    def epoch_ended(self, epoch: int, metrics: Mapping[str, float], lr: Sequence[float]) -> None:
        """Print the epoch's line."""
        seconds = self._clock() - self._epoch_start
        super().epoch_ended(epoch, metrics, lr)
        width = len(str(self.stage.epochs))
        head = f"  epoch {self.epoch:>{width}}/{self.stage.epochs}"
        self._print(_fit(head, _parts(metrics, lr, seconds), self._console.width))

    def stage_ended(self, summary: str) -> None:
        """Print how long the stage took, and its summary."""
        line = f"{self.place} {self.stage.title} ended after {measure.show_duration(self.stage_seconds())}"
        if summary:
            room = self._console.width - cell_len(line)
            line += f": {clean(summary)}" if cell_len(summary) + 2 <= room else f"\n  {clean(summary)}"
        self._print(line)

    def message(self, text: str) -> None:
        """Print `text`."""
        self._print(text)

    def run_ended(self, rows: Sequence[Mapping[str, Any]], report: Path | None) -> None:
        """Print the table of results."""
        self._print(f"run {self.name} ended after {measure.show_duration(self._clock() - self._run_start)}")
        if rows:
            columns, left_out = result_columns(parse_rows(rows), self._console.width)
            best = any(any(column.best) for column in columns)
            notes = [*(["* best"] if best else []), *([f"no room for {', '.join(left_out)}"] if left_out else [])]
            self._print("\n".join(["", *plain_table(columns), *(["; ".join(notes)] if notes else []), ""]))
        if report is not None:
            self._print(f"report: {report}")

    def _print(self, text: str) -> None:
        # What the output's encoding cannot say must not end a run.
        encoding = self._console.encoding
        text = "\n".join(map(clean, text.split("\n"))).encode(encoding, "replace").decode(encoding)
        self._console.print(text, style=None, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def _parts(metrics: Mapping[str, float], lr: Sequence[float], seconds: float) -> list[tuple[int, str]]:
    """Return what an epoch's line may say, in order, each with its rank: the lowest ranks are kept."""
    names = {full: MetricName.parse(full) for full in metrics}
    headline = measure.headline_metric(name.metric for name in names.values() if name.model)
    several = len({name.model for name in names.values() if name.model}) > 1
    parts: list[tuple[int, str]] = []
    for full, (split, model, metric, term, layer) in names.items():
        value = metrics[full]
        if layer:
            continue
        if not split:
            parts.append((2, f"{metric} {measure.show(metric, value)}"))
        elif term:
            parts.append((5 if split == "train" else 7, f"{split} {term} {measure.show_number(value)}"))
        elif model:
            rank = 1 if metric == headline and split != "train" else 6
            whose = f"{split} {model}" if several else split
            parts.append((rank, f"{whose} {metric} {measure.show(metric, value)}"))
        else:
            parts.append((0 if split == "train" else 2, f"{split} {metric} {measure.show(metric, value)}"))
    rates = " ".join(f"{rate:.3g}" for rate in dict.fromkeys(lr))
    return [*parts, (4, f"lr {rates}"), (3, measure.show_duration(seconds))]


def _fit(head: str, parts: Sequence[tuple[int, str]], width: int) -> str:
    room = width - cell_len(head)
    kept = set()
    for place, (_, text) in sorted(enumerate(parts), key=lambda each: each[1][0]):
        if cell_len(text) + 2 <= room:
            kept.add(place)
            room -= cell_len(text) + 2
    return "  ".join([head, *(text for place, (_, text) in enumerate(parts) if place in kept)])
