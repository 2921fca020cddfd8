"""Progress of a search as a live display in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdcore.engine import measure
from kdcore.engine.progress.tracked import clean
from kdcore.search.progress import SearchPlan, SearchProgress
from kdcore.search.record import State, Trial
from kdcore.search.words import describe_metrics, describe_point

_BAR = 30
_INTERVAL_S = 0.25


class LiveSearchProgress(SearchProgress):
    """Draws how many trials have ended, which run, the best so far, the front's size and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self.width = console.width
        self._live: Live | None = None
        self._phase = ("", 0)
        self._done = 0
        self._due = 0.0

    def search_started(self, plan: SearchPlan, trials: Mapping[int, Trial]) -> None:
        """Open the display."""
        super().search_started(plan, trials)
        self._write(Text.assemble((clean(plan.name), "bold"), f"  {plan.folder}"))
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._draw()

    def phase(self, title: str, total: int) -> None:
        """Count runs of another kind."""
        self._phase, self._done = (title, total), 0
        self._draw()

    def trial_started(self, number: int, point: Mapping[str, Any]) -> None:
        """Draw the trial."""
        super().trial_started(number, dict(point))
        self._draw()

    def trial_ended(self, trial: Trial) -> None:
        """Leave a line about a trial that did not run to its end, and draw where the search stands."""
        super().trial_ended(trial)
        if trial.state is State.FAILED:
            self._write(Text(clean(f"trial {trial.number} failed: {trial.reason}"), "yellow"))
        self._draw()

    def run_ended(self, number: int) -> None:
        """Count the run."""
        super().run_ended(number)
        self._done += 1
        self._draw()

    def tick(self) -> None:
        """Draw if a drawing is due."""
        if self._clock() >= self._due:
            self._draw()
            self._due = self._clock() + _INTERVAL_S

    def message(self, text: str) -> None:
        """Leave `text` above the display."""
        self._write(Text("\n".join(map(clean, text.split("\n")))))

    def search_ended(self, lines: Sequence[str]) -> None:
        """Put the lines in the place of the display."""
        self.close()
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        """Stop drawing, show the cursor."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _write(self, text: Text) -> None:
        self._console.print(text, highlight=False)

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._frame(), refresh=True)

    def _frame(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, content in self._lines():
            grid.add_row(label, content)
        return grid

    def _lines(self) -> Iterable[tuple[str, RenderableType]]:
        assert self.plan is not None
        title, total = self._phase
        if title:
            yield title, self._bar(self._done, total, f"{self._done}/{total}")
        else:
            most = self.plan.trials
            yield "trials", self._bar(self.trained, most or 0, f"{self.trained}/{'?' if most is None else most}")
        for number in sorted(self.running):
            yield f"run {number}" if title else f"trial {number}", self._running(number)
        best, front = self.standing()
        if best is not None:
            told = f"trial {best.number}: {describe_metrics(best, self.plan.objectives)}  {describe_point(best.point)}"
            yield "best", Text(told)
            if len(self.plan.objectives) > 1:
                yield "front", Text(f"{len(front)} of {len(self.trials)}")
        left = self.seconds_left()
        yield "left", Text(measure.MISSING if left is None else measure.show_duration(left))

    def _running(self, number: int) -> Text:
        data, point = self.running[number], describe_point(self.points.get(number, {}))
        if not data:
            return Text(f"begins  {point}")
        stage = f"stage {data['stage'] + 1}/{data['stages']} " if data.get("stages", 1) > 1 else ""
        return Text(f"{stage}epoch {data.get('epoch', 0)}/{data['epochs']}  {point}")

    def _bar(self, done: float, total: float, told: str) -> RenderableType:
        line = Table.grid(padding=(0, 1))
        line.add_column(width=min(_BAR, max(5, self._console.width // 3)))
        line.add_column(no_wrap=True)
        line.add_row(ProgressBar(total=total or 1, completed=done), Text(told))
        return line
