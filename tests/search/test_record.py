"""Trials as lines of a file: nothing is lost, whatever is cut off."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from kdcore.errors import RunError
from kdcore.search.record import State, Trial, append_trial, read_trials

TRIAL = Trial(
    number=0,
    point={"models.student.params.width": 4, "stages.d.optimizer": {"type": "SGD", "params": {"lr": 0.1}}},
    state=State.COMPLETE,
    metrics={"val/student/accuracy": 0.1 + 0.2, "parameters": 1702.0},
    seconds=1.5,
    folder="trials/0",
    epochs=3,
    started=1.7e9,
)


def test_a_line_is_json_and_comes_back() -> None:
    line = TRIAL.to_line()
    assert "\n" not in line
    assert json.loads(line)["state"] == "complete"
    assert Trial.from_line(line) == TRIAL


def test_values_that_are_not_finite_stay_json() -> None:
    line = replace(TRIAL, metrics={"loss": math.nan, "other": math.inf}).to_line()
    assert json.loads(line)["metrics"] == {"loss": None, "other": None}
    assert all(map(math.isnan, Trial.from_line(line).metrics.values()))


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert Trial.from_line(json.dumps({**json.loads(TRIAL.to_line()), "colour": "blue"})) == TRIAL


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", '{"number": 1}', '{"number": 1, "point": [], "state": "complete"}', "{",
     '{"number": 1, "point": {}, "state": "lost"}', '{"number": 1, "point": {}, "state": "failed", "metrics": {"a": "x"}}'],
)  # fmt: skip
def test_what_is_no_trial(line: str) -> None:
    with pytest.raises(ValueError):
        Trial.from_line(line)


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    assert read_trials(file) == []
    trials = [replace(TRIAL, number=number) for number in (2, 0, 1)]
    for trial in trials:
        append_trial(file, trial)
    assert [trial.number for trial in read_trials(file)] == [0, 1, 2]
    append_trial(file, replace(TRIAL, number=1, state=State.FAILED, reason="again"))
    assert read_trials(file)[1].reason == "again"


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_line_is_dropped_and_nothing_else(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "results.jsonl"
    append_trial(file, TRIAL)
    append_trial(file, replace(TRIAL, number=1))
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    file.write_bytes(whole[:first] + whole[first:][:kept])
    assert read_trials(file) == [TRIAL]
    append_trial(file, replace(TRIAL, number=2))
    assert [trial.number for trial in read_trials(file)] == [0, 2]


def test_a_torn_line_that_is_long(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_trial(file, TRIAL)
    with file.open("ab") as stream:
        stream.write(b"x" * 10_000)
    append_trial(file, replace(TRIAL, number=1))
    assert [trial.number for trial in read_trials(file)] == [0, 1]


def test_a_line_that_is_no_trial_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_trial(file, TRIAL)
    with file.open("ab") as stream:
        stream.write(b"rubbish\n")
    with pytest.raises(RunError, match=r"results.jsonl:2: this line is not a trial: .*\n *take the line out"):
        read_trials(file)
