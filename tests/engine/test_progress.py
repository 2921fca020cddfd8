from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from kdcore.engine.progress import Progress, StagePlan, make_progress
from kdcore.engine.progress.live import LiveProgress
from kdcore.engine.progress.plain import PlainProgress

PLANS = [StagePlan("alone", "student alone", 2, 10), StagePlan("distill", "student, distilled", 3, 10)]
EPOCH = {
    "train/loss": 0.41234,
    "train/losses/ce": 0.3,
    "train/losses/kd": 0.11,
    "train/student/accuracy": 0.93,
    "val/loss": 0.44,
    "val/student/accuracy": 0.925,
    "val/student/top_5": 0.99,
}
ROWS = [
    {"stage": "", "title": "teacher", "model": "teacher", "split": "test"}
    | {"metrics": {"loss": 0.1, "accuracy": 0.981, "top_5": 0.999}, "parameters": 1234567, "latency_ms": 4.2},
    {"stage": "alone", "title": "student alone", "model": "student", "split": "test"}
    | {"metrics": {"loss": 0.3, "accuracy": 0.912, "top_5": 0.99}, "parameters": 21234, "latency_ms": 0.52},
    {"stage": "distill", "title": "student, distilled", "model": "student", "split": "test"}
    | {"metrics": {"loss": 0.2, "accuracy": 0.951, "top_5": 0.995}, "parameters": 21234, "latency_ms": 0.51},
]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terms:
    """Counts how often the losses are read."""

    def __init__(self, **values: float) -> None:
        self.values = values
        self.reads = 0

    def __call__(self) -> dict[str, float]:
        self.reads += 1
        return self.values


def log(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width)


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, record=True, legacy_windows=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def frame(progress: LiveProgress, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(progress._frame())
    return [line.rstrip() for line in written(console).splitlines()]


def follow(progress: Progress, clock: Clock, rows: list[dict[str, object]]) -> None:
    terms = Terms(ce=0.3)
    progress.run_started("digits", Path("runs/digits/1"), PLANS)
    for index, plan in enumerate(PLANS):
        progress.stage_started(index)
        for epoch in range(plan.epochs):
            progress.epoch_started(epoch)
            for _ in range(plan.steps_per_epoch):
                clock.now += 0.1
                progress.step_ended(terms)
            progress.evaluating("val", 2)
            progress.evaluated_batch()
            progress.epoch_ended(epoch, EPOCH, [0.1, 0.1])
        progress.stage_ended("best epoch 2")
    progress.run_ended(rows, Path("runs/digits/1/report.html"))


def test_the_output_decides_which_display_is_made() -> None:
    assert isinstance(make_progress(terminal()), LiveProgress)
    assert isinstance(make_progress(log()), PlainProgress)
    assert type(make_progress(terminal(), quiet=True)) is Progress


def test_standard_output_that_is_no_terminal_gets_lines_even_if_colour_is_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with make_progress() as progress:
        follow(progress, Clock(), ROWS)
    text = capsys.readouterr().out
    assert "epoch 1/2" in text
    assert "\x1b" not in text


def test_quiet_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terms = Terms(ce=1.0)
    with make_progress(quiet=True) as progress:
        follow(progress, Clock(), ROWS)
        progress.step_ended(terms)
        progress.message("a warning")
    assert capsys.readouterr() == ("", "")
    assert terms.reads == 0


def test_a_log_reads_line_by_line() -> None:
    console, clock = log(), Clock()
    with PlainProgress(console, clock) as progress:
        follow(progress, clock, ROWS)
    assert written(console).splitlines() == [
        "run digits: 2 stages, runs/digits/1",
        "stage 1/2 student alone: 2 epochs of 10 steps",
        "  epoch 1/2  train loss 0.4123  val loss 0.4400  val accuracy 92.50 %  1.0 s",
        "  epoch 2/2  train loss 0.4123  val loss 0.4400  val accuracy 92.50 %  1.0 s",
        "stage 1/2 student alone ended after 2.0 s: best epoch 2",
        "stage 2/2 student, distilled: 3 epochs of 10 steps",
        "  epoch 1/3  train loss 0.4123  val loss 0.4400  val accuracy 92.50 %  1.0 s",
        "  epoch 2/3  train loss 0.4123  val loss 0.4400  val accuracy 92.50 %  1.0 s",
        "  epoch 3/3  train loss 0.4123  val loss 0.4400  val accuracy 92.50 %  1.0 s",
        "stage 2/2 student, distilled ended after 3.0 s: best epoch 2",
        "run digits ended after 5.0 s",
        "",
        "                    test accuracy  test loss  test top_5  parameters  latency ms",
        "------------------  -------------  ---------  ----------  ----------  ----------",
        "teacher                  98.10 %*    0.1000*    99.90 %*  1,234,567       4.200",
        "student alone            91.20 %     0.3000     99.00 %      21,234*     0.5200",
        "student, distilled       95.10 %     0.2000     99.50 %      21,234*     0.5100*",
        "* best",
        "",
        "report: runs/digits/1/report.html",
    ]


def test_a_wider_log_says_more_of_an_epoch() -> None:
    console, clock = log(200), Clock()
    progress = PlainProgress(console, clock)
    progress.run_started("r", Path("f"), PLANS)
    progress.stage_started(0)
    progress.epoch_started(0)
    progress.epoch_ended(0, EPOCH | {"val/losses/ce": float("nan")}, [0.1, 0.01, 0.1])
    line = written(console).splitlines()[-1]
    for part in ("train ce 0.3000", "train kd 0.1100", "val ce nan", "train accuracy 93.00 %", "lr 0.1 0.01"):
        assert part in line


def test_two_models_are_told_apart_in_a_log() -> None:
    console = log(120)
    progress = PlainProgress(console, Clock())
    progress.run_started("r", Path("f"), PLANS)
    progress.stage_started(0)
    progress.epoch_ended(0, {"val/first/accuracy": 0.5, "val/second/accuracy": 0.25}, [])
    assert "val first accuracy 50.00 %  val second accuracy 25.00 %" in written(console)


def test_a_long_epoch_shows_a_sign_of_life_in_a_log() -> None:
    console, clock, terms = log(), Clock(), Terms(total=0.5, ce=0.25)
    progress = PlainProgress(console, clock)
    progress.run_started("r", Path("f"), [StagePlan("lm", "lm", 1, 1000)])
    progress.stage_started(0)
    progress.epoch_started(0)
    for _ in range(100):
        clock.now += 7
        progress.step_ended(terms)
    assert terms.reads == 1
    assert written(console).splitlines()[2:] == ["  epoch 1 step 86/1000  total 0.5000, ce 0.2500  1 h 46 min left"]


def test_names_and_messages_cannot_steer_a_log() -> None:
    console = log()
    progress = PlainProgress(console, Clock())
    progress.run_started("a\x1b[2Jb", Path("f"), [StagePlan("s", "[bold]x[/bold]\r\ny", 1, 1)])
    progress.stage_started(0)
    progress.message("first\nsecond \x1b]0;title\x07")
    assert written(console).splitlines() == [
        "run a?[2Jb: 1 stage, f",
        "stage 1/1 [bold]x[/bold]? y: 1 epoch of 1 step",
        "first",
        "second ?]0;title?",
    ]


def test_what_the_encoding_of_a_log_lacks_does_not_end_the_run() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=80)
    PlainProgress(console, Clock()).message("größer")
    assert raw.getvalue() == b"gr??er\n"


def test_the_losses_are_read_at_most_four_times_a_second() -> None:
    clock, terms = Clock(), Terms(ce=0.3)
    with LiveProgress(terminal(), clock) as progress:
        progress.run_started("r", Path("f"), PLANS)
        progress.stage_started(0)
        progress.epoch_started(0)
        for _ in range(1000):
            progress.step_ended(terms)
        assert terms.reads == 1
        for _ in range(1024):
            clock.now += 1 / 512
            progress.step_ended(terms)
    assert terms.reads == 9


def test_slow_drawing_becomes_rare() -> None:
    clock = Clock()

    class Slow(LiveProgress):
        def _draw(self) -> None:
            clock.now += 0.05

    progress, terms = Slow(terminal(), clock), Terms(ce=0.3)
    progress.run_started("r", Path("f"), PLANS)
    progress.stage_started(0)
    progress.step_ended(terms)
    clock.now += 4.9
    progress.step_ended(terms)
    assert terms.reads == 1
    clock.now += 0.2
    progress.step_ended(terms)
    assert terms.reads == 2


def test_the_live_display_shows_where_the_run_stands() -> None:
    clock = Clock()
    with LiveProgress(terminal(), clock) as progress:
        progress.run_started("r", Path("f"), PLANS)
        progress.stage_started(0)
        progress.epoch_started(0)
        for _ in range(10):
            clock.now += 1
            progress.step_ended(Terms(ce=0.3, kd=1.23456e-5))
        progress.epoch_ended(0, EPOCH, [0.1, 0.01])
        progress.epoch_started(1)
        for _ in range(5):
            clock.now += 1
            progress.step_ended(Terms(ce=0.25, kd=1.23456e-5))
        lines = frame(progress)
        assert lines[0].split() == ["stage", "1/2", "student", "alone"]
        assert lines[1].startswith("epoch")
        assert lines[1].endswith("2/2")
        assert lines[2].startswith("step")
        assert lines[2].endswith("5/10")
        assert lines[3].split(maxsplit=1)[1] == "5.0 s of this stage, about 35 s of the run"
        assert lines[4].split() == ["losses", "ce", "0.2500", "kd", "1.235e-05"]
        assert lines[5].split() == ["lr", "0.1", "0.01"]
        assert " ".join(lines[6:]).split() == (
            [
                "epoch",
                "1",
                "val/loss",
                "0.4400",
                "val/student/accuracy",
                "92.50",
                "%",
                "val/student/top_5",
                "99.00",
                "%",
            ]
        )
        progress.evaluating("val", 4)
        progress.evaluated_batch()
        assert frame(progress)[2].startswith("val")
        assert frame(progress)[2].endswith("1/4")


def test_before_the_first_step_nothing_is_promised() -> None:
    clock = Clock()
    with LiveProgress(terminal(), clock) as progress:
        progress.run_started("r", Path("f"), PLANS)
        progress.stage_started(1)
        progress.epoch_started(2)
        assert progress.stage_left() is None
        assert progress.run_left() is None
        clock.now += 4
        progress.step_ended(Terms(ce=0.3))
        assert progress.stage_left() == pytest.approx(36)  # resumed at the last epoch: nine steps of four seconds
        assert progress.run_left() == pytest.approx(36)


@pytest.mark.parametrize("width", [40, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    clock, console = Clock(), terminal(width)
    plans = [StagePlan("s", "学生 " * 60, 10**6, 10**7)]
    with LiveProgress(console, clock) as progress:
        progress.run_started("r", Path("f"), plans)
        progress.stage_started(0)
        progress.epoch_started(0)
        clock.now += 1
        progress.step_ended(Terms(**{f"a_rather_long_term_{place}": 0.1 for place in range(9)}))
        progress.epoch_ended(0, EPOCH, [0.1])
        assert max(map(cell_len, frame(progress, width))) <= width
        rows = [row | {"title": "学生 " * 30} for row in ROWS]
        progress.run_ended(rows, None)
    table = [line for line in console.export_text().splitlines() if "accuracy" in line or "91.20" in line]
    assert len(table) >= 2
    assert max(map(cell_len, table)) <= width


def test_a_table_without_room_says_what_it_leaves_out() -> None:
    console = log(66)
    PlainProgress(console, Clock()).run_ended(ROWS, None)
    lines = written(console).splitlines()
    assert lines[2] == "                    test accuracy  parameters  latency ms"
    assert "* best; no room for test loss, test top_5" in lines


def test_values_of_different_splits_are_not_ranked_against_each_other() -> None:
    console = log()
    rows = [dict(ROWS[1]), dict(ROWS[2]) | {"split": "val"}]
    PlainProgress(console, Clock()).run_ended(rows, None)
    lines = written(console).splitlines()
    assert "student alone (test)" in lines[4]
    assert "91.20 % " in lines[4]
    assert "student, distilled (val)" in lines[5]
    assert "95.10 %*" not in lines[5]


def test_values_that_are_missing_or_not_finite_leave_a_gap_in_the_table() -> None:
    console = log()
    broken = {"title": "broken", "metrics": {"accuracy": float("nan")}, "parameters": None, "latency_ms": None}
    PlainProgress(console, Clock()).run_ended([*ROWS, broken], None)
    assert next(line for line in written(console).splitlines() if "broken" in line).split() == ["broken", *"-----"]


def test_the_terminal_is_given_back_after_the_run() -> None:
    console, clock = terminal(), Clock()
    with LiveProgress(console, clock) as progress:
        follow(progress, clock, ROWS)
    text = written(console)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden and shown again
    told = console.export_text()
    assert "stage 2/2 student, distilled  3.0 s  best epoch 2" in told
    assert "report: runs/digits/1/report.html" in told
    assert "\x1b[1;32m" in text  # the best values stand out


def test_the_terminal_is_given_back_after_an_error() -> None:
    console = terminal()

    def fail() -> None:
        with LiveProgress(console, Clock()) as progress:
            progress.run_started("r", Path("f"), PLANS)
            progress.stage_started(0)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert written(console).rstrip().endswith("\x1b[?25h")


def test_messages_stand_above_the_live_display_without_markup() -> None:
    console = terminal()
    with LiveProgress(console, Clock()) as progress:
        progress.run_started("r", Path("f"), PLANS)
        progress.stage_started(0)
        progress.message("[red]careful[/red]\x1b[2J")
    assert "[red]careful[/red]?[2J" in console.export_text()
    assert "\x1b[2J" not in written(console)
