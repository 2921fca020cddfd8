"""Searches over real runs: shared stages, crashes, early stops, kill -9, interruption."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kdcore
from kdcore.config.trial import assignments
from kdcore.errors import PluginError, RunError
from kdcore.plugins import Registry
from kdcore.search.record import State, Trial
from kdcore.search.search import Search, SearchResult
from kdcore.search.trial import read_metrics

pytestmark = pytest.mark.slow

DEADLINE_S = 300.0
MARK = "KDCORE_TEST_SEARCH"

BASE = """\
version: 1
name: digits
output_dir: {folder}
device: cpu
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 10}}, batch_size: 32, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 512}}
models:
  teacher: {{type: digits_cnn, params: {{width: 4}}}}
  student: {{type: digits_mlp, params: {{width: 8}}}}
stages:
  - name: teacher
    epochs: 1
    train: [teacher]
    losses: {{ce: {{type: cross_entropy, inputs: {{input: teacher}}}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
  - name: distill
    epochs: 2
    train: [student]
    losses:
      ce: {{type: cross_entropy, weight: 0.5}}
      kd: {{type: kd, weight: 0.5, params: {{temperature: 4}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
"""

SECTION = """\
search:
  searcher: random
  space:
    models.student.params.width: [4, 8, 16]
    stages.distill.losses.kd.params.temperature: {{low: 1.0, high: 8.0}}
  objectives:
    - {{metric: val/student/accuracy, goal: maximize}}
    - {{metric: parameters, goal: minimize}}
  max_trials: 4
"""


def written(folder: Path, text: str = BASE + SECTION) -> Path:
    file = folder / "search.yaml"
    file.write_text(text.format(folder=folder), encoding="utf-8")
    return file


def search(folder: Path, *overrides: str, **options: Any) -> SearchResult:
    return Search(written(folder), overrides=overrides, quiet=True, **options).run()


def compared(trial: Trial) -> tuple[Any, ...]:
    """Return what two searches that do the same have in common; time is none of it."""
    metrics = {name: value for name, value in trial.metrics.items() if name != "latency_ms"}
    return trial.number, trial.point, trial.state, metrics


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """Return a search that nothing disturbed."""
    return search(
        tmp_path_factory.mktemp("whole"), "search.final={choose: best, overrides: {stages.distill.epochs: 3}}"
    )


def test_a_trial_is_an_ordinary_run(whole: SearchResult, tmp_path: Path) -> None:
    trial = whole.trials[1]
    overrides = [*assignments(trial.point), f"output_dir={json.dumps(str(tmp_path))}"]
    config = kdcore.load_config(written(tmp_path, BASE), overrides=overrides)
    alone = read_metrics(kdcore.run(config, quiet=True), config)
    assert {name: trial.metrics[name] for name in alone} == alone
    kept = whole.folder / str(trial.folder)
    assert kdcore.load_config(kept / "config.yaml").resolved["models"] == config.resolved["models"]
    assert json.loads((kept / "results.json").read_text())["status"] == "completed"


def test_stages_that_no_parameter_reaches_are_trained_once(whole: SearchResult) -> None:
    shared = whole.folder / "shared"
    weights = (shared / "teacher.safetensors").read_bytes()
    for trial in whole.trials:
        folder = whole.folder / str(trial.folder)
        assert (folder / "teacher.safetensors").read_bytes() == weights
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["stage"] for line in lines] == ["teacher", "distill", "distill"]
        assert lines[0] == json.loads((shared / "metrics.jsonl").read_text())


def test_what_was_chosen_is_distilled_in_full(whole: SearchResult) -> None:
    (final,) = whole.finals
    assert whole.best is not None
    assert (final.number, final.point, final.state) == (whole.best.number, whole.best.point, State.COMPLETE)
    assert final.epochs == 3
    assert (whole.folder / str(final.folder) / "student.safetensors").is_file()


def test_trials_leave_weights_but_no_states_of_training(whole: SearchResult) -> None:
    folder = whole.folder / str(whole.trials[0].folder)
    assert (folder / "student.safetensors").is_file()
    assert list((folder / "checkpoints").glob("*/*epoch-*")) == []


def test_parameters_bytes_and_latency_are_measured(whole: SearchResult) -> None:
    for trial in whole.trials:
        width = trial.point["models.student.params.width"]
        model = kdcore.create("model", "digits_mlp", width=width)
        assert trial.metrics["parameters"] == sum(each.numel() for each in model.parameters())
        assert trial.metrics["bytes"] == 4 * trial.metrics["parameters"]


def test_the_report_shows_front_history_and_table(whole: SearchResult) -> None:
    text = (whole.folder / "report.html").read_text(encoding="utf-8")
    for part in ("val/student/accuracy against parameters", "Hypervolume of the front", "Which parameters matter"):
        assert part in text
    assert text.count("<circle") > len(whole.trials)


def test_several_at_once_find_the_same(whole: SearchResult, tmp_path: Path) -> None:
    result = search(tmp_path, "search.jobs=2")
    assert sorted(map(str, map(compared, result.trials))) == sorted(map(str, map(compared, whole.trials)))


def test_a_point_that_breaks_a_constraint_costs_no_training(tmp_path: Path) -> None:
    result = search(tmp_path, "search.constraints=['parameters <= 1000', 'flops <= 1e9']", "search.max_trials=2")
    infeasible = [trial for trial in result.trials if trial.state is State.INFEASIBLE]
    assert sum(trial.state is State.COMPLETE for trial in result.trials) == 2
    for trial in infeasible:
        assert trial.reason == f"parameters is {trial.metrics['parameters']:g}, not <= 1000"
        assert trial.epochs is None
        assert not (result.folder / str(trial.folder) / "results.json").exists()
    # A linear layer of n x m weights is n m multiplications and as many additions.
    best = result.trials[-1]
    width = best.point["models.student.params.width"]
    assert best.metrics["flops"] == 2 * sum(
        each.numel() for each in kdcore.create("model", "digits_mlp", width=width).parameters() if each.dim() == 2
    )


def test_trials_that_fall_behind_are_stopped(tmp_path: Path) -> None:
    result = search(
        tmp_path,
        "search.objectives=[{metric: val/losses/ce, goal: minimize}]",
        "search.space={stages.distill.optimizer.params.lr: [0.1, 1e-5, 1e-6, 1e-7]}",
        "search.searcher=grid",
        "search.max_trials=null",
        "search.stop_early={after_epochs: 1, factor: 2}",
    )
    assert [trial.state for trial in result.trials] == [State.COMPLETE, *[State.STOPPED] * 3]
    assert [trial.epochs for trial in result.trials] == [2, 1, 1, 1]
    assert result.trials[1].reason == "behind the other trials after 1 epoch"
    assert result.best == result.trials[0]


CRASHES = """
import os, signal
import kdcore
from torch import nn

class Crashing(nn.Sequential):
    def __init__(self, how: str = "not"):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        if how == "raises":
            raise ValueError("raised on purpose")
        if how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "memory":
            raise MemoryError
        if how == "diverges":
            nn.init.constant_(self[1].weight, float("inf"))

kdcore.register("model", "crashing", Crashing)
"""


def test_trials_that_crash_or_diverge_are_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    plugin = tmp_path / "crashes.py"
    plugin.write_text(CRASHES, encoding="utf-8")
    result = search(
        tmp_path,
        "models.student={type: crashing}",
        "search.searcher=grid",
        "search.space={models.student.params.how: [raises, segfault, memory, diverges, 'not']}",
        "search.max_trials=null",
        plugins=[plugin],
    )
    *failed, last = result.trials
    assert last.state is State.COMPLETE
    assert [trial.state for trial in failed] == [State.FAILED] * 4
    reasons = [str(trial.reason) for trial in failed]
    assert "raised on purpose" in reasons[0]
    assert reasons[1] == "its process was ended by SIGSEGV (crashed: an error in compiled code)"
    assert "memory" in reasons[2].lower()
    assert "not finite" in reasons[3]


def test_a_component_of_this_process_only_is_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "crashes.py"
    plugin.write_text(CRASHES, encoding="utf-8")
    kdcore.register("model", "only_here", lambda: None, schema={"type": "object"})
    with pytest.raises(PluginError, match=r"is known to this process only.*\n.*--plugin FILE"):
        search(tmp_path, "models.student={type: only_here}", "search.space={seed: [1, 2]}")
    registry = Registry.discover()
    registry.load_file(plugin)
    assert registry.find("model", "crashing")


def test_a_metric_that_no_trial_has_ends_the_search_after_the_first(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"trial 0 .* has no metric 'val/losses/student.aux'"):
        search(tmp_path, "search.objectives=[{metric: val/losses/student.aux, goal: minimize}]")


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Begin a search as the leader of a session and group of its own; its processes can be told by their folder."""
    command = [sys.executable, "-m", "kdcore", "search", *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", MARK: str(folder)},
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def members(folder: Path) -> list[int]:
    """Return the processes of a search that are there: itself, its trials, their loaders' workers."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            own = f"{MARK}={folder}".encode() in (each / "environ").read_bytes().split(b"\0")
            state = (each / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if own and state != "Z":
            found.append(int(each.name))
    return found


def search_folder(folder: Path) -> Path | None:
    return next(iter(sorted((folder / "digits").glob("search-*"))), None) if (folder / "digits").is_dir() else None


def reached(folder: Path, pattern: str, count: int = 1) -> bool:
    found = search_folder(folder)
    return found is not None and len(list(found.glob(pattern))) >= count


def await_(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


MOMENTS = [
    ("state.json", 1),
    ("shared/metrics.jsonl", 1),
    ("trials/0000/config.yaml", 1),
    ("trials/0001/metrics.jsonl", 1),
    ("trials/*/outcome.json", 2),
    ("trials/0003/checkpoints/distill/epoch-*", 1),
    ("final/*/config.yaml", 1),
]


@pytest.mark.parametrize(("pattern", "count"), MOMENTS, ids=[pattern.replace("/", "-") for pattern, _ in MOMENTS])
def test_a_killed_search_goes_on_and_ends_as_one_that_was_not(
    whole: SearchResult, tmp_path: Path, pattern: str, count: int
) -> None:
    final = "search.final={choose: best, overrides: {stages.distill.epochs: 3}}"
    process = started(tmp_path, str(written(tmp_path)), "--quiet", "--set", final)
    await_(lambda: reached(tmp_path, pattern, count), process)
    process.kill()
    process.communicate()
    folder = search_folder(tmp_path)
    assert folder is not None
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/outcome.json")}
    result = Search(None, resume=folder, quiet=True).run()
    assert [compared(trial) for trial in result.trials] == [compared(trial) for trial in whole.trials]
    assert [compared(trial) for trial in result.finals] == [compared(trial) for trial in whole.finals]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    states = [json.loads((each / "state.json").read_text()) for each in (folder, whole.folder)]
    assert states[0]["searcher"] == states[1]["searcher"]
    assert states[0]["open"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(whole: SearchResult, tmp_path: Path, number: signal.Signals) -> None:
    long = ["--set", "stages.distill.epochs=2000", "--set", "search.max_trials=1"]
    process = started(tmp_path, str(written(tmp_path)), *long)
    await_(lambda: reached(tmp_path, "trials/0000/checkpoints/distill/epoch-*"), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE_S)
    folder = search_folder(tmp_path)
    assert process.returncode == 128 + number
    call = f"{sys.executable} -m kdcore search"
    assert f"kd: interrupted: all is saved; {call} --resume {folder} goes on from there" in errors
    assert folder is not None
    results = json.loads((folder / "trials" / "0000" / "results.json").read_text())
    assert results["status"] == "interrupted"
    assert json.loads((folder / "state.json").read_text())["open"][0]["number"] == 0


@pytest.mark.parametrize(
    ("pattern", "numbers", "everywhere"),
    [
        ("state.json", [signal.SIGTERM], True),
        ("shared/config.yaml", [signal.SIGTERM, signal.SIGTERM], False),
        ("trials/0001/metrics.jsonl", [signal.SIGINT], False),
        ("trials/0001/metrics.jsonl", [signal.SIGTERM], True),
        ("final/*/config.yaml", [signal.SIGTERM, signal.SIGTERM], False),
    ],
    ids=["begun", "shared", "trials", "trials_everywhere", "final"],
)
def test_a_signal_to_loader_workers_too_loses_nothing(
    whole: SearchResult, tmp_path: Path, pattern: str, numbers: list[signal.Signals], everywhere: bool
) -> None:
    """As a terminal, `timeout` or, to every process, a scheduler sends them; two trials run at once."""
    final = "search.final={choose: best, overrides: {stages.distill.epochs: 3}}"
    words = [str(written(tmp_path)), "--jobs", "2", "--set", final]
    for split in ("train", "val"):
        words += ["--set", f"data.{split}.num_workers=1"]
    process = started(tmp_path, *words)
    await_(lambda: reached(tmp_path, pattern), process)
    for number in numbers:
        if everywhere:
            for pid in members(tmp_path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        else:
            os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + numbers[0], errors
    folder = search_folder(tmp_path)
    assert folder is not None
    assert f"kd search --resume {folder} goes on from there" in errors.replace(f"{sys.executable} -m kdcore", "kd")
    assert "Traceback" not in errors
    deadline = time.monotonic() + DEADLINE_S
    while members(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    result = Search(None, resume=folder, quiet=True).run()
    assert [compared(trial) for trial in result.trials] == [compared(trial) for trial in whole.trials]
    assert [compared(trial) for trial in result.finals] == [compared(trial) for trial in whole.finals]
