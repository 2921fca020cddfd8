"""What people see of a search, in a log and in a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from kdcore.search.live import LiveSearchProgress
from kdcore.search.objectives import Objective
from kdcore.search.progress import PlainSearchProgress, SearchPlan, SearchProgress, make_search_progress
from kdcore.search.record import State, Trial

PLAN = SearchPlan(
    "digits", Path("runs/x"), (Objective("val/student/accuracy", True), Objective("parameters", False)), (), 4, 2, 12
)


def trial(number: int, accuracy: float, parameters: float, state: State = State.COMPLETE) -> Trial:
    metrics = {"val/student/accuracy": accuracy, "parameters": parameters}
    return Trial(number, {"a.width": number}, state, metrics, reason="no memory", seconds=2.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def played(progress: SearchProgress, clock: Clock) -> None:
    with progress:
        progress.search_started(PLAN, {0: trial(0, 0.5, 100)})
        progress.phase("stages that all trials share", 1)
        progress.phase("", 0)
        for number, accuracy, state in ((1, 0.7, State.COMPLETE), (2, 0.1, State.FAILED)):
            progress.trial_started(number, {"a.width": number})
            progress.trial_advanced(number, {"stage": 0, "stages": 2, "epoch": 3, "epochs": 8})
            progress.tick()
            clock.now += 10
            progress.trial_ended(trial(number, accuracy, 1000, state))
        progress.message("something [bold]else[/]")
        progress.search_ended(["the end"])


def test_a_log_has_a_line_for_each_trial() -> None:
    out, clock = io.StringIO(), Clock()
    played(PlainSearchProgress(Console(file=out, width=200), clock), clock)
    assert out.getvalue().splitlines() == [
        "search digits: 12 points, at most 4 trials, 2 at once, runs/x",
        "going on after 1 trials on record",
        "stages that all trials share: 1 run",
        "  trial 1  val/student/accuracy 70.00 %, parameters 1,000  width=1  2.0 s  2/4 trained, best 0, front 2, 20 s left",
        "  trial 2  failed: no memory  width=2  2.0 s  3/4 trained, best 0, front 2, 10 s left",
        "something [bold]else[/]",
        "the end",
    ]


def test_a_terminal_shows_what_runs_the_best_the_front_and_the_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, width=100, height=30, force_terminal=True, color_system=None)
    played(LiveSearchProgress(console, clock), clock)
    text = out.getvalue()
    for part in ("2/4", "stage 1/2 epoch 3/8  width=2", "trial 0: val/student/accuracy 50.00 %", "2 of 2", "20 s"):
        assert part in text
    assert "trial 2 failed: no memory" in text
    assert text.rstrip().endswith("the end")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_fits_where_the_output_goes(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    expected = LiveSearchProgress if terminal and not console.is_dumb_terminal else PlainSearchProgress
    assert type(make_search_progress(console)) is expected
    assert type(make_search_progress(console, quiet=True)) is SearchProgress
