"""Searches over a function: what is tried, what is told to the searcher, and how a search goes on."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import kdcore
from kdcore.engine.interrupt import Abandoned
from kdcore.engine.lock import locked
from kdcore.errors import ConfigError, PluginError, RunError
from kdcore.plugins import registry
from kdcore.search.folder import SearchFolder
from kdcore.search.progress import SearchProgress
from kdcore.search.record import State
from kdcore.search.search import Search, SearchResult

SPACE = {"width": [1, 2, 3, 4], "depth": [1, 2, 3]}
TWO = [{"metric": "accuracy", "goal": "maximize"}, {"metric": "cost", "goal": "minimize"}]
ONE = TWO[:1]


def score(point: Mapping[str, Any]) -> dict[str, float]:
    """Return a result that follows from the point alone; wide and shallow is best."""
    accuracy = point["width"] / 5 - 0.05 * (point["depth"] - 1)
    return {"accuracy": accuracy, "cost": float(point["width"] * point["depth"])}


class Counted:
    """Calls a function and remembers the points; the one numbered `fails` does what `how` says."""

    def __init__(self, function: Callable[..., Any] = score, fails: int | None = None, how: Any = None) -> None:
        self.function, self.fails, self.how = function, fails, how
        self.points: list[dict[str, Any]] = []

    def __call__(self, point: dict[str, Any]) -> Any:
        self.points.append(dict(point))
        if len(self.points) - 1 == self.fails:
            raise self.how
        return self.function(point)


class Parrot:
    """A searcher that says one point again and again, and remembers what it is told."""

    told: ClassVar[list[tuple[dict[str, Any], Any]]] = []

    def __init__(self, points: list[dict[str, Any]] | None = None) -> None:
        self.points = points or [{"width": 1, "depth": 1}]
        self.asked = 0

    def setup(self, space: Any, objectives: Any, *, constraints: Any = (), storage: Any = None) -> None:
        type(self).told = []

    def suggest(self) -> dict[str, Any] | None:
        self.asked += 1
        return dict(self.points[(self.asked - 1) % len(self.points)])

    def feedback(self, point: Mapping[str, Any], metrics: Any) -> None:
        self.told.append((dict(point), metrics))

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


@pytest.fixture
def parrot() -> None:
    schema = {"type": "object", "properties": {"points": {"type": "array", "default": []}}}
    registry().register("searcher", "parrot", Parrot, schema=schema)


def section(folder: Path, objectives: Any = TWO, **more: Any) -> dict[str, Any]:
    return {"output_dir": str(folder), "search": {"searcher": "grid", "space": SPACE, "objectives": objectives, **more}}


def search(folder: Path, function: Any, **options: Any) -> SearchResult:
    keys = {"resume", "trials", "progress", "quiet"} & options.keys()
    given = {key: options.pop(key) for key in keys}
    config = None if "resume" in given and not options else section(folder, **options)
    return Search(config, function, quiet=True, **given).run()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_point_is_tried_once_and_leaves_a_line(tmp_path: Path) -> None:
    function = Counted()
    result = search(tmp_path, function)
    assert len(function.points) == 12
    assert [line["number"] for line in lines(result.folder)] == list(range(12))
    assert all(line["metrics"] == score(line["point"]) for line in lines(result.folder))
    assert {line["state"] for line in lines(result.folder)} == {"complete"}
    # Deeper is worse and dearer, so the front is every width at depth 1.
    assert [trial.point for trial in result.front] == [{"depth": 1, "width": width} for width in (1, 2, 3, 4)]
    assert result.best is not None
    assert result.best.point["depth"] == 1


def test_the_front_is_written_as_a_table_of_plain_values(tmp_path: Path) -> None:
    result = search(tmp_path, score)
    with (result.folder / "pareto.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["trial"], row["width"], row["accuracy"], row["cost"]) for row in rows] == [
        ("0", "1", "0.2", "1.0"),
        ("1", "2", "0.4", "2.0"),
        ("2", "3", "0.6", "3.0"),
        ("3", "4", "0.8", "4.0"),
    ]


def test_one_objective_has_one_best(tmp_path: Path) -> None:
    result = search(tmp_path, score, objectives=ONE)
    assert [trial.point for trial in result.front] == [{"depth": 1, "width": 4}]
    assert result.best == result.front[0]


def test_trials_are_limited(tmp_path: Path) -> None:
    function = Counted()
    result = search(tmp_path, function, max_trials=5)
    assert len(function.points) == len(result.trials) == 5


def test_a_point_that_breaks_a_constraint_is_no_solution(tmp_path: Path) -> None:
    result = search(tmp_path, score, constraints=["cost <= 2"])
    assert [trial.metrics["cost"] for trial in result.front] == [1.0, 2.0]


def test_a_function_that_fails_is_a_trial_with_a_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    function = Counted(fails=3, how=ValueError("no such width"))
    result = search(tmp_path, function)
    failed = [trial for trial in result.trials if trial.state is State.FAILED]
    assert [trial.number for trial in failed] == [3]
    assert "ValueError: no such width" in (failed[0].reason or "")
    assert len(function.points) == 12


@pytest.mark.parametrize("found", [3, {"accuracy": "high", "cost": 1}])
def test_a_function_that_returns_no_metrics_has_failed(tmp_path: Path, found: Any) -> None:
    with pytest.raises(RunError, match=r"no trial came to its end: 12 were begun; the first: (Type|Value)Error"):
        search(tmp_path, lambda point: found)


def test_an_objective_that_the_function_does_not_return_ends_the_search_at_once(tmp_path: Path) -> None:
    function = Counted(lambda point: {"acc": 1.0, "cost": 1.0})
    with pytest.raises(RunError, match=r"has no metric 'accuracy'.*\n.*There are acc, cost"):
        search(tmp_path, function)
    assert len(function.points) == 1


def test_repeats_are_fed_back_and_use_up_no_trial(tmp_path: Path, parrot: None) -> None:
    points = [{"width": 1, "depth": 1}, {"width": 1, "depth": 1}, {"width": 2, "depth": 1}]
    function = Counted()
    search(tmp_path, function, searcher={"type": "parrot", "params": {"points": points}}, max_trials=2)
    assert function.points == [points[0], points[2]]
    assert Parrot.told == [(points[0], score(points[0]))] * 2 + [(points[2], score(points[2]))]


def test_a_searcher_that_only_repeats_itself_does_not_stall_the_search(tmp_path: Path, parrot: None) -> None:
    function = Counted()
    messages: list[str] = []

    class Heard(SearchProgress):
        def message(self, text: str) -> None:
            messages.append(text)

    search(tmp_path, function, searcher="parrot", progress=Heard())
    keys = [(point["width"], point["depth"]) for point in function.points]
    assert sorted(keys) == sorted((width, depth) for width in (1, 2, 3, 4) for depth in (1, 2, 3))
    assert messages == ["the search ended: all 12 points of the space were tried"]


def test_a_searcher_that_leaves_the_space_is_named(tmp_path: Path, parrot: None) -> None:
    searcher = {"type": "parrot", "params": {"points": [{"width": 9, "depth": 1}]}}
    with pytest.raises(
        PluginError, match=r"searcher 'parrot' .* suggested a point outside the space: width cannot be 9"
    ):
        search(tmp_path, score, searcher=searcher)


def test_a_searcher_that_fails_is_named(tmp_path: Path, parrot: None) -> None:
    with pytest.raises(PluginError, match=r"searcher 'parrot' .* failed to suggest a point: TypeError"):
        search(tmp_path, score, searcher={"type": "parrot", "params": {"points": [3]}})


def test_a_search_that_is_complete_says_how_to_go_on(tmp_path: Path) -> None:
    first = search(tmp_path, score, max_trials=2)
    messages: list[str] = []

    class Heard(SearchProgress):
        def message(self, text: str) -> None:
            messages.append(text)

    search(tmp_path, score, resume=first.folder, progress=Heard())
    assert messages == ["the search ended: 2 trials are trained already; --trials N trains N more"]


def test_a_failed_trial_is_told_as_nothing(tmp_path: Path, parrot: None) -> None:
    function = Counted(fails=0, how=ValueError("no"))
    search(tmp_path, function, searcher="parrot", max_trials=2)
    assert Parrot.told[0] == ({"width": 1, "depth": 1}, None)


@pytest.mark.parametrize("searcher", ["grid", "random"])
@pytest.mark.parametrize("at", [0, 1, 4, 11])
def test_an_interrupted_search_ends_as_one_that_was_not(tmp_path: Path, searcher: str, at: int) -> None:
    whole = search(tmp_path / "whole", score, searcher=searcher)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "parts", Counted(fails=at, how=KeyboardInterrupt()), searcher=searcher)
    (folder,) = (tmp_path / "parts" / "run").iterdir()
    function = Counted()
    parts = search(tmp_path, function, resume=folder)
    assert len(function.points) == 12 - at
    assert [trial.point for trial in parts.trials] == [trial.point for trial in whole.trials]
    assert [trial.metrics for trial in parts.trials] == [trial.metrics for trial in whole.trials]
    states = [json.loads((each / "state.json").read_text(encoding="utf-8")) for each in (whole.folder, folder)]
    assert states[0]["searcher"] == states[1]["searcher"]
    assert states[0]["next"] == states[1]["next"]
    assert states[1]["open"] == []


def test_a_second_sigint_ends_a_search_at_once_and_it_still_says_how_to_go_on(tmp_path: Path) -> None:
    def impatient(point: dict[str, Any]) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return score(point)

    with pytest.raises(Abandoned) as caught:
        search(tmp_path, impatient)
    (folder,) = tmp_path.glob("*/search-*")
    call = f"Search(None, train_and_evaluate, resume='{folder}').run()"
    assert caught.value.advice == f"{call} goes on from there"
    assert len(Search(None, score, resume=folder, quiet=True).run().trials) > 0


def test_what_was_recorded_but_not_yet_learnt_is_not_tried_again(tmp_path: Path, parrot: None) -> None:
    points = [{"width": 1, "depth": 1}, {"width": 2, "depth": 1}]
    searcher = {"type": "parrot", "params": {"points": points}}
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Counted(fails=1, how=KeyboardInterrupt()), searcher=searcher, max_trials=2)
    folder = SearchFolder(next((tmp_path / "run").iterdir()))
    # As if the search had been killed between the line of its second trial and what follows.
    line = {"number": 1, "point": points[1], "state": "complete", "metrics": {"accuracy": 0.5, "cost": 9.0}}
    with folder.results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    function = Counted()
    result = search(tmp_path, function, resume=folder.path)
    assert function.points == []
    assert Parrot.told == [(points[1], {"accuracy": 0.5, "cost": 9.0})]
    assert len(result.trials) == 2


def test_a_line_cut_off_by_a_crash_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Counted(fails=2, how=KeyboardInterrupt()))
    (folder,) = (tmp_path / "run").iterdir()
    with (folder / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"number": 2, "point": {"wid')
    result = search(tmp_path, Counted(), resume=folder)
    assert [line["number"] for line in lines(folder)] == list(range(12))
    assert len(result.trials) == 12


def test_only_new_trials_count_where_their_number_is_given(tmp_path: Path) -> None:
    first = search(tmp_path, score, max_trials=4)
    function = Counted()
    result = search(tmp_path, function, resume=first.folder, trials=3)
    assert len(function.points) == 3
    assert len(result.trials) == 7


def test_limits_may_change_between_two_parts(tmp_path: Path) -> None:
    first = search(tmp_path, score, max_trials=4)
    function = Counted()
    search(tmp_path, function, resume=first.folder, max_trials=6)
    assert len(function.points) == 2


def test_another_space_is_refused_with_what_differs(tmp_path: Path) -> None:
    first = search(tmp_path, score, max_trials=2)
    with pytest.raises(RunError, match=r"holds another search: search.space.width.3: was 4, is 5"):
        search(tmp_path, score, resume=first.folder, space={**SPACE, "width": [1, 2, 3, 5]})
    with pytest.raises(RunError, match=r'search\.objectives\.0\.goal: was "maximize", is "minimize"'):
        search(tmp_path, score, resume=first.folder, objectives=[{"metric": "accuracy", "goal": "minimize"}, TWO[1]])
    with pytest.raises(RunError, match=r'search\.searcher\.type: was "grid", is "random"'):
        search(tmp_path, score, resume=first.folder, searcher="random")


def test_two_searches_never_write_into_one_folder(tmp_path: Path) -> None:
    first = search(tmp_path, score, max_trials=2)
    with locked(first.folder), pytest.raises(RunError, match="another process is writing into"):
        search(tmp_path, score, resume=first.folder)


def test_a_folder_that_is_none_of_a_search_is_refused(tmp_path: Path) -> None:
    first = search(tmp_path, score, max_trials=1)
    with pytest.raises(RunError, match=r"is not the folder of a search\n.*the latest in it is .*/search-"):
        search(tmp_path, score, resume=first.folder.parent)
    with pytest.raises(RunError, match=r"there is no folder .*\n.*kd search prints the folder when it starts"):
        search(tmp_path, score, resume=tmp_path / "none")


def test_no_trial_begins_once_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("kdcore.search.study.time.monotonic", lambda: clock[0])

    def slow(point: Mapping[str, Any]) -> dict[str, float]:
        clock[0] += 10
        return score(point)

    first = search(tmp_path, slow, timeout_s=25)
    assert len(first.trials) == 3
    # The seconds of an earlier part count.
    assert len(search(tmp_path, slow, resume=first.folder, timeout_s=45).trials) == 5


def test_a_section_alone_is_checked_as_one_in_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_trials"):
        search(tmp_path, score, max_trials=0)
    with pytest.raises(RunError, match="stop_early has no meaning where your own function trains"):
        search(tmp_path, score, objectives=ONE, stop_early={"after_epochs": 1})
    with pytest.raises(RunError, match="jobs is 2, but your own function is called for one point at a time"):
        search(tmp_path, score, jobs=2)
    with pytest.raises(RunError, match="trials must be 1 or more, found 0"):
        search(tmp_path, score, trials=0)


def test_a_launcher_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcore.search.search.process_count", lambda: 2)
    with pytest.raises(RunError, match="a launcher has started 2 processes"):
        search(tmp_path, score)


def test_the_bare_section_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = kdcore.Search(
        {"space": {"x": [1, 2]}, "objectives": ONE}, lambda point: {"accuracy": point["x"]}, quiet=True
    ).run()
    assert result.best is not None
    assert result.best.point == {"x": 2}
    assert result.folder.parent.parent == Path("runs")
