"""Fronts, choices, tables and the report of a search."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from kdcore.config.search_config import FinalConfig
from kdcore.search.base import load_base
from kdcore.search.folder import SearchFolder
from kdcore.search.front import chosen, eligible, front_of, ranked
from kdcore.search.objectives import Constraint, Objective
from kdcore.search.record import State, Trial
from kdcore.search.report import write_search_report
from kdcore.search.results import result_lines
from kdcore.search.words import describe_point, short_names, show_metric

ACCURACY, PARAMETERS = Objective("val/student/accuracy", True), Objective("parameters", False)
OBJECTIVES = (ACCURACY, PARAMETERS)


def trial(number: int, accuracy: float, parameters: float, state: State = State.COMPLETE, **more: Any) -> Trial:
    metrics = {"val/student/accuracy": accuracy, "parameters": parameters, "latency_ms": parameters / 1000}
    point = {"models.student.params.width": number + 1}
    return Trial(number, point, state, metrics, seconds=1.0, folder=f"trials/{number:04d}", **more)


TRIALS = [
    trial(0, 0.5, 100),
    trial(1, 0.7, 1000),
    trial(2, 0.6, 2000),
    trial(3, 0.9, 10000),
    trial(4, 0.99, 50, State.STOPPED, reason="behind the other trials after 1 epoch"),
    trial(5, math.nan, 20),
    trial(6, 0.0, 0, State.FAILED, reason="<script>alert(1)</script>"),
]


def numbers(trials: list[Trial]) -> list[int]:
    return [each.number for each in trials]


def test_only_trials_that_ended_with_numbers_and_kept_the_bounds_are_eligible() -> None:
    assert numbers(eligible(TRIALS, OBJECTIVES, ())) == [0, 1, 2, 3]
    assert numbers(eligible(TRIALS, OBJECTIVES, [Constraint.parse("parameters <= 2000")])) == [0, 1, 2]
    assert eligible(TRIALS, [Objective("flops", False)], ()) == []


def test_the_front_leaves_out_what_is_dominated() -> None:
    assert numbers(front_of(TRIALS, OBJECTIVES, ())) == [0, 1, 3]
    assert numbers(front_of(TRIALS, [ACCURACY], ())) == [3]
    assert front_of([], OBJECTIVES, ()) == []


def test_of_equal_trials_the_first_is_chosen_whichever_ended_first() -> None:
    twins = [trial(number, 0.9, 100) for number in (2, 1, 3)]
    assert numbers(eligible(twins, OBJECTIVES, ())) == [1, 2, 3]
    assert numbers(front_of(twins, OBJECTIVES, ())) == [1]
    assert numbers(chosen(FinalConfig("best"), front_of(twins, [ACCURACY], ()), [ACCURACY])) == [1]


def test_full_distillations_are_chosen_from_the_front() -> None:
    front = front_of(TRIALS, OBJECTIVES, ())
    # Scaled: 0: 0 and 1, 1: 0.5 and 0.909, 3: 1 and 0; so 1 is the best mean and the nearest to both bests.
    assert numbers(ranked(front, OBJECTIVES)) == [1, 0, 3]
    assert numbers(chosen(FinalConfig("best"), front, OBJECTIVES)) == [1]
    assert numbers(chosen(FinalConfig("knee"), front, OBJECTIVES)) == [1]
    assert numbers(chosen(FinalConfig("front", at_most=2), front, OBJECTIVES)) == [1, 0]
    accuracy_counts = (Objective("val/student/accuracy", True, 10.0), PARAMETERS)
    assert numbers(chosen(FinalConfig("best"), front, accuracy_counts)) == [3]
    assert chosen(FinalConfig(), [], OBJECTIVES) == []


def test_paths_are_named_by_the_shortest_end_that_tells_them_apart() -> None:
    paths = ["models.student.params.width", "models.teacher.params.width", "stages.a.epochs"]
    assert short_names(paths) == {
        "models.student.params.width": "student.params.width",
        "models.teacher.params.width": "teacher.params.width",
        "stages.a.epochs": "epochs",
    }
    assert describe_point({"a.b": 0.25, "c": [1, 2], "d": "sgd"}) == "b=0.25 c=[1, 2] d=sgd"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("val/student/accuracy", 0.5, "50.00 %"),
        ("val/losses/kd", 0.5, "0.5000"),
        ("parameters", 1702.0, "1,702"),
        ("student/parameters", 1702.0, "1,702"),
        ("bytes", 25568.0, "25.6 kB"),
        ("latency_ms", 1.25, "1.250"),
        ("val/loss", math.nan, "nan"),
    ],
)
def test_metrics_are_written_as_they_are_read(name: str, value: float, text: str) -> None:
    assert show_metric(name, value) == text


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    found = SearchFolder.create(str(tmp_path), "shown")
    found.config.write_text(
        "search:\n  space: {models.student.params.width: [1, 2, 3, 4, 5, 6, 7]}\n"
        "  objectives: [{metric: val/student/accuracy, goal: maximize}, {metric: parameters, goal: minimize}]\n"
    )
    found.write_state({})
    return found


def base_of(folder: SearchFolder) -> Any:
    return load_base(folder.config, (), (), own=True, output_dir=None)


def test_the_table_marks_the_front(folder: SearchFolder) -> None:
    for each in TRIALS:
        folder.append(each)
    folder.append_final(trial(1, 0.8, 1000))
    lines = result_lines(folder, base_of(folder))
    rows = {line.split()[0]: line for line in lines if re.match(r"\s*\d", line)}
    assert {"0*", "1*", "2", "3*", "4", "5", "6"} <= rows.keys()
    assert rows["0*"].split()[1:4] == ["1", "50.00", "%"]
    assert "stopped" in rows["4"]
    assert "full distillations" in lines


def test_a_narrow_terminal_loses_what_can_be_missed_best(folder: SearchFolder) -> None:
    for each in TRIALS[:4]:
        folder.append(each)
    wide, narrow = result_lines(folder, base_of(folder)), result_lines(folder, base_of(folder), 62)
    assert [wide[2].split(), narrow[2].split()] == [
        ["trial", "width", "val/student/accuracy", "parameters", "latency_ms", "state", "time"],
        ["trial", "width", "val/student/accuracy", "parameters", "state"],
    ]
    assert max(map(len, narrow[2:8])) <= 62


def test_the_report_escapes_what_came_from_the_search(folder: SearchFolder) -> None:
    for each in TRIALS:
        folder.append(each)
    text = write_search_report(folder, base_of(folder)).read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for part in ("val/student/accuracy against parameters", "val/student/accuracy against latency_ms", "in the front"):
        assert part in text
    # Four dots of trials and three of the front, against parameters; the front against latency is the same.
    assert text.count("<circle") >= 14
    assert "nan" not in re.sub(r"<td>[^<]*</td>", "", text)


def test_a_search_without_results_has_a_report_too(folder: SearchFolder) -> None:
    text = write_search_report(folder, base_of(folder)).read_text(encoding="utf-8")
    assert "No trial has come to its end yet." in text
    assert result_lines(folder, base_of(folder))[1] == "no trial has ended"
