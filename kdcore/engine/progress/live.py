"""Progress as a live display in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdcore.engine import measure
from kdcore.engine.measure import MetricName
from kdcore.engine.progress.interface import StagePlan
from kdcore.engine.progress.table import result_columns, rich_table
from kdcore.engine.progress.tracked import Terms, Tracked, clean
from kdcore.engine.row import parse_rows

_BAR = 30


class LiveProgress(Tracked):
    """Draws stage, epoch, batch, losses, learning rate, time left and the last validation.

    Drawing takes at most a hundredth of the time: after a slow one the next comes later. It happens
    in the caller's thread, because a drawing thread that holds a lock while workers fork can hang them.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._live: Live | None = None
        self._terms: Mapping[str, float] = {}
        self._lr: Sequence[float] = ()
        self._validation: tuple[int, Mapping[str, float]] = (0, {})
        self._run_start = clock()

    def run_started(self, name: str, folder: Path, stages: Sequence[StagePlan]) -> None:
        """Open the display."""
        super().run_started(name, folder, stages)
        self._run_start = self._clock()
        self._write(Text.assemble((self.name, "bold"), f"  {folder}"))
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def stage_started(self, index: int) -> None:
        """Draw the stage anew."""
        super().stage_started(index)
        self._terms, self._lr, self._validation = {}, (), (0, {})
        self._draw()

    def epoch_started(self, epoch: int, step: int = 0) -> None:
        """Draw the epoch."""
        super().epoch_started(epoch, step)
        self._draw()

    def evaluating(self, split: str, total: int) -> None:
        """Draw the bar of the evaluation in place of that of the steps."""
        super().evaluating(split, total)
        self._draw()

    def epoch_ended(self, epoch: int, metrics: Mapping[str, float], lr: Sequence[float]) -> None:
        """Draw what the epoch reached."""
        super().epoch_ended(epoch, metrics, lr)
        self._lr = lr
        held_out = {full: value for full, value in metrics.items() if _is_shown(MetricName.parse(full))}
        if held_out:
            self._validation = (self.epoch, held_out)
        self._draw()

    def stage_ended(self, summary: str) -> None:
        """Leave a line about the stage above the display."""
        line = f"{self.place} {self.stage.title}  {measure.show_duration(self.stage_seconds())}"
        self._write(Text.assemble((line, "bold"), f"  {clean(summary)}" if summary else ""))

    def message(self, text: str) -> None:
        """Leave `text` above the display."""
        self._write(Text("\n".join(map(clean, text.split("\n")))))

    def run_ended(self, rows: Sequence[Mapping[str, Any]], report: Path | None) -> None:
        """Put the table of results in the place of the display."""
        if self._live is not None:
            self._live.transient = True  # the table takes the place of the last frame
        self.close()
        if rows:
            columns, left_out = result_columns(parse_rows(rows), self._console.width)
            self._console.print(rich_table(columns))
            if left_out:
                self._write(Text(f"no room for {', '.join(left_out)}", "dim"))
        self._write(Text(f"ended after {measure.show_duration(self._clock() - self._run_start)}"))
        if report is not None:
            self._console.print(Text(f"report: {report}"), soft_wrap=True)

    def close(self) -> None:
        """Stop drawing, leave the last frame, show the cursor."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def refresh(self, terms: Terms | None) -> None:
        """Read the losses and draw."""
        if terms is not None:
            self._terms = dict(terms())
        started = self._clock()
        self._draw()
        self.interval = max(type(self).interval, 100 * (self._clock() - started))

    def _write(self, text: Text) -> None:
        self._console.print(text, highlight=False)

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._frame(), refresh=True)

    def _frame(self) -> RenderableType:
        if not self.stages:
            return Text("")
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, content in self._lines():
            grid.add_row(label, content)
        return grid

    def _lines(self) -> Iterable[tuple[str, RenderableType]]:
        plan = self.stage
        yield self.place, Text(plan.title, "bold", no_wrap=True, overflow="ellipsis")
        yield "epoch", self._bar(self._ended + self._epoch_share(), plan.epochs, f"{self.epoch}/{plan.epochs}")
        if self.split:
            shown = f"{self.evaluated}/{self.to_evaluate or '?'}"
            yield self.split, self._bar(self.evaluated, self.to_evaluate, shown)
        else:
            yield "step", self._bar(self.step, plan.steps_per_epoch, f"{self.step}/{plan.steps_per_epoch}")
        yield "left", Text(self._left())
        if self._terms:
            yield "losses", _values((name, measure.show_number(value)) for name, value in self._terms.items())
        if self._lr:
            yield "lr", Text(" ".join(f"{rate:.4g}" for rate in dict.fromkeys(self._lr)))
        epoch, metrics = self._validation
        if metrics:
            shown_metrics = ((full, measure.show(MetricName.parse(full).metric, v)) for full, v in metrics.items())
            yield f"epoch {epoch}", _values(shown_metrics)

    def _epoch_share(self) -> float:
        return min(1.0, self.step / self.stage.steps_per_epoch) if self.stage.steps_per_epoch else 0.0

    def _left(self) -> str:
        stage, run = self.stage_left(), self.run_left()
        if stage is None:
            return measure.MISSING
        told = f"{measure.show_duration(stage)} of this stage"
        return told + (f", about {measure.show_duration(run)} of the run" if run is not None else "")

    def _bar(self, done: float, total: float, told: str) -> RenderableType:
        line = Table.grid(padding=(0, 1))
        line.add_column(width=min(_BAR, max(5, self._console.width // 3)))
        line.add_column(no_wrap=True)
        line.add_row(ProgressBar(total=total or 1, completed=done), Text(told))
        return line


def _is_shown(name: MetricName) -> bool:
    return name.split != "train" and not name.layer


def _values(pairs: Iterable[tuple[str, str]]) -> Text:
    text = Text()
    for name, value in pairs:
        text.append(f"{'  ' if text else ''}{clean(name)} ")
        text.append(value.replace(" ", "\N{NO-BREAK SPACE}"), "bold")
    return text
