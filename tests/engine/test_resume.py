"""Runs that are killed, interrupted or damaged, and end with the weights of a run that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kdcore.cli.main import main
from kdcore.config.load import load_config
from kdcore.engine.interrupt import Abandoned, Interrupted
from kdcore.engine.lock import locked
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.errors import RunError

BASE = """\
version: 1
name: long
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 5, augment: true}}, batch_size: 8, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 256}}
models:
  teacher: {{type: digits_cnn, params: {{width: 4}}}}
  student: {{type: digits_mlp, params: {{width: 8, dropout: 0.2}}}}
adapters:
  proj: {{type: linear, inputs: {{x: student:layer1}}, like: teacher:pool}}
checkpoints: {{every_steps: 4, keep: 2}}
stages:
  - name: teach
    epochs: 2
    train: [teacher]
    losses:
      ce: {{type: cross_entropy, inputs: {{input: teacher}}}}
    optimizer: {{type: AdamW, params: {{lr: 0.01}}}}
  - name: hint
    epochs: 1
    train: [student, proj]
    losses:
      hint: {{type: mse, inputs: {{input: proj, target: teacher:pool}}}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
  - name: distill
    epochs: 3
    train: [student]
    losses:
      ce: {{type: cross_entropy, weight: 0.1}}
      kd: {{type: kd, weight: 0.9}}
      hint: {{type: mse, inputs: {{input: proj, target: teacher:pool}}}}
    balancer: uncertainty
    accumulate: 2
    clip_grad_norm: 1.0
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
    scheduler: {{type: ReduceLROnPlateau, params: {{monitor: train/loss, patience: 0}}}}
    best: {{metric: val/loss}}
    early_stop: {{metric: val/loss, patience: 3}}
"""


def config_of(folder: Path, *overrides: str) -> Any:
    return load_config(BASE.format(folder=folder), overrides=overrides)


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors")) + sorted((folder / "checkpoints").glob("*/*.safetensors"))
    return {
        f"{file.relative_to(folder)}/{name}": value
        for file in files
        for name, value in safetensors.torch.load_file(file).items()
    }


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def assert_same(folder: Path, reference: Path) -> None:
    one, two = weights(folder), weights(reference)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert metrics(folder) == metrics(reference)
    rows = [{**row, "latency_ms": 0} for row in results(folder)["rows"]]
    assert rows == [{**row, "latency_ms": 0} for row in results(reference)["rows"]]
    assert results(folder)["status"] == "completed"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config_of(tmp_path_factory.mktemp("reference")), quiet=True)


class Doom(Progress):
    """Kills its own process when it has counted so many events: steps, batches, and each part of writing a file."""

    def __init__(self, events: int) -> None:
        self.left = events

    def event(self, *_: Any) -> None:
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    step_ended = event
    evaluated_batch = event

    def watch(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.event()
            return original(*args, **options)

        setattr(owner, name, counted)


def doomed(folder: Path, overrides: tuple[str, ...], resume: Path | None, events: int) -> None:
    doom = Doom(events)
    for owner, name in (
        (os, "fsync"),
        (os, "replace"),
        (os, "rename"),
        (Path, "replace"),
        (shutil, "rmtree"),
        (os, "truncate"),
    ):
        doom.watch(owner, name)
    run(config_of(folder, *overrides), progress=doom, resume=resume)


def killed_until_done(folder: Path, overrides: tuple[str, ...], seed: int) -> tuple[Path, int]:
    """Kill the run at random events and resume it until it ends; returns its folder and the number of kills."""
    moments = random.Random(seed)
    found: Path | None = None
    for kills in range(200):
        # Later and later, so that a run that gets nowhere between two kills ends too.
        events = moments.randint(1, 40 + 10 * kills)
        process = multiprocessing.get_context("fork").Process(target=doomed, args=(folder, overrides, found, events))
        process.start()
        process.join()
        if process.exitcode == 0:
            return found or only_run(folder), kills
        assert process.exitcode == -signal.SIGKILL
        found = found or (only_run(folder) if began(folder) else None)
    pytest.fail("the run never ended")


def killed_by_the_clock(folder: Path, seconds: float) -> Path:
    """Kill the run from outside after random times, at least twice, and resume it until it ends."""
    moments, kills = random.Random(0), 0
    for attempt in range(100):
        found = only_run(folder) if began(folder) else None
        process = multiprocessing.get_context("fork").Process(
            target=lambda found=found: run(config_of(folder), quiet=True, resume=found)
        )
        process.start()
        # On a faster machine than thought, the first moments come too late: shorter until they do not.
        process.join(moments.uniform(0, seconds) * (0.9**attempt if kills < 2 else 1.1**attempt))
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            kills += 1
        elif kills < 2:
            shutil.rmtree(folder / "long")
        else:
            assert process.exitcode == 0
            return only_run(folder)
    pytest.fail("the run never ended")


def only_run(folder: Path) -> Path:
    (found,) = (folder / "long").iterdir()
    return found


def began(folder: Path) -> bool:
    """Whether a run that can be resumed is there; one that had not begun is swept away."""
    for each in (folder / "long").glob("*"):
        if (each / "config.yaml").is_file():
            return True
        shutil.rmtree(each)
    return False


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_events_it_ends_with_the_same_weights(tmp_path: Path, reference: Path, seed: int) -> None:
    folder, kills = killed_until_done(tmp_path, (), seed)
    assert kills >= 5
    assert_same(folder, reference)


def test_killed_with_worker_processes_it_ends_with_the_same_weights(tmp_path: Path, reference: Path) -> None:
    folder, kills = killed_until_done(tmp_path, ("data.train.num_workers=1",), 3)
    assert kills >= 3
    assert_same(folder, reference)


@pytest.mark.slow
def test_killed_by_the_clock_it_ends_with_the_same_weights(tmp_path: Path, reference: Path) -> None:
    assert_same(killed_by_the_clock(tmp_path, 1.0), reference)


class Stops(Progress):
    """Sends a signal to its own process when a run has come to a given point."""

    def __init__(self, number: int, *, stage: int, step: int = 0, evaluation: int = 0, times: int = 1) -> None:
        self.number, self.times = number, times
        self.stage, self.step, self.evaluation = stage, step, evaluation
        self.now, self.steps, self.evaluations = -1, 0, 0
        self.messages: list[str] = []

    def stage_started(self, index: int) -> None:
        self.now, self.steps, self.evaluations = index, 0, 0

    def step_ended(self, terms: Any) -> None:
        self.steps += 1
        self._maybe(self.steps == self.step)

    def evaluated_batch(self) -> None:
        self.evaluations += 1
        self._maybe(self.evaluations == self.evaluation)

    def _maybe(self, reached: bool) -> None:
        if reached and self.now == self.stage:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("point", [{"stage": 0, "step": 6}, {"stage": 2, "step": 5}, {"stage": 2, "evaluation": 1}])
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, reference: Path, number: int, point: dict[str, int]
) -> None:
    with pytest.raises(Interrupted) as caught:
        run(config_of(tmp_path), progress=Stops(number, **point))
    folder = only_run(tmp_path)
    assert caught.value.number == number
    assert "saved in " in caught.value.advice
    assert f"kdcore.run(config, resume='{folder}') goes on from there" in caught.value.advice
    assert results(folder)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    progress = Stops(number, stage=-2)
    run(load_config(folder / "config.yaml"), progress=progress, resume=folder)
    assert any("goes on after epoch" in text for text in progress.messages)
    assert_same(folder, reference)


def test_a_second_signal_ends_it_at_once(tmp_path: Path, reference: Path) -> None:
    with pytest.raises(Abandoned) as caught:
        run(config_of(tmp_path), progress=Stops(signal.SIGINT, stage=2, step=3, times=2))
    folder = only_run(tmp_path)
    assert caught.value.advice == f"kdcore.run(config, resume='{folder}') goes on from there"
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert_same(folder, reference)


def test_more_signals_of_a_scheduler_change_nothing(tmp_path: Path, reference: Path) -> None:
    with pytest.raises(Interrupted, match="SIGTERM") as caught:
        run(config_of(tmp_path), progress=Stops(signal.SIGTERM, stage=2, step=3, times=3))
    assert "saved in " in caught.value.advice
    folder = only_run(tmp_path)
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert_same(folder, reference)


def interrupted(folder: Path, *, stage: int = 2, step: int = 11) -> Path:
    with pytest.raises(Interrupted):
        run(config_of(folder), progress=Stops(signal.SIGTERM, stage=stage, step=step))
    return only_run(folder)


def states(folder: Path, stage: str = "distill") -> list[Path]:
    return sorted((folder / "checkpoints" / stage).glob("epoch-*"))


@pytest.mark.parametrize("file", ["objective.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path, reference: Path, file: str, damage: str) -> None:
    folder = interrupted(tmp_path)
    newest = states(folder)[-1]
    victim = newest / file
    content = bytearray(victim.read_bytes())
    if damage == "missing":
        victim.unlink()
    elif damage == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        victim.write_bytes(content)
    progress = Stops(signal.SIGTERM, stage=-2)
    run(config_of(tmp_path), progress=progress, resume=folder)
    assert any(
        f"{newest.name}' is damaged" in text and "going on from the one before" in text for text in progress.messages
    )
    assert_same(folder, reference)


def test_without_any_sound_checkpoint_the_stage_starts_again(tmp_path: Path, reference: Path) -> None:
    folder = interrupted(tmp_path)
    for each in states(folder):
        (each / "state.pt").write_bytes(b"")
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert_same(folder, reference)


def test_a_missing_best_epoch_counts_as_damage(tmp_path: Path, reference: Path) -> None:
    folder = interrupted(tmp_path)
    for each in (folder / "checkpoints" / "distill").glob("best-*"):
        shutil.rmtree(each)
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert_same(folder, reference)


def test_checkpoints_are_kept_to_the_limit(reference: Path) -> None:
    assert len(states(reference)) == 2
    assert len(list((reference / "checkpoints" / "distill").glob("best-*"))) <= 2


def test_what_was_half_written_is_removed(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    (folder / "checkpoints" / "distill" / ".epoch-00009-step-000000099.1.part").mkdir()
    (folder / ".config.yaml.1.part").write_text("x")
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert not [each for each in folder.rglob("*") if each.name.endswith((".part", ".old"))]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.distill.losses.kd.params.temperature=3.0", r"stages\.2\.losses\.kd\.params\.temperature: was 4(\.0)?, is 3\.0"),
        ("data.train.params.samples_per_class=4", r"data train\.samples: was 50, is 40"),
        ("seed=1", r"seed: was 0, is 1"),
    ],
)  # fmt: skip
def test_what_changed_is_refused_with_the_difference(tmp_path: Path, override: str, said: str) -> None:
    folder = interrupted(tmp_path)
    with pytest.raises(RunError, match=f"cannot be resumed as it was: .*{said}.*\n.*pass accept_changes=True"):
        run(config_of(tmp_path, override), quiet=True, resume=folder)
    progress = Stops(signal.SIGTERM, stage=-2)
    run(config_of(tmp_path, override), progress=progress, resume=folder, accept_changes=True)
    assert any("resumed although" in text for text in progress.messages)
    assert results(folder)["status"] == "completed"


def test_another_plugin_version_is_refused(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    file = folder / "identity.json"
    identity = json.loads(file.read_text())
    identity["versions"]["kd-plugin-kd"] = "0.0.1"
    file.write_text(json.dumps(identity))
    with pytest.raises(RunError, match=r"versions kd-plugin-kd: was '0\.0\.1', is '"):
        run(config_of(tmp_path), quiet=True, resume=folder)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "unused.pt")
    first = run(config_of(tmp_path / "first", "stages.teach.epochs=1"), quiet=True)
    shutil.copy(first / "teacher.safetensors", tmp_path / "teacher.safetensors")
    loads = (f"models.teacher.weights={tmp_path}/teacher.safetensors",)
    with pytest.raises(Interrupted):
        run(config_of(tmp_path, *loads), progress=Stops(signal.SIGINT, stage=1, step=2))
    folder = only_run(tmp_path)
    second = run(config_of(tmp_path / "second", "seed=5", "stages.teach.epochs=1"), quiet=True)
    shutil.copy(second / "teacher.safetensors", tmp_path / "teacher.safetensors")
    with pytest.raises(RunError, match="weights teacher: was"):
        run(config_of(tmp_path, *loads), quiet=True, resume=folder)


def test_what_changes_nothing_may_change(tmp_path: Path, reference: Path) -> None:
    folder = interrupted(tmp_path)
    free = ("checkpoints.every_steps=1", "data.train.num_workers=1", "output_dir=elsewhere")
    run(config_of(tmp_path, *free), quiet=True, resume=folder)
    assert_same(folder, reference)


def test_a_finished_run_stays_as_it_is(tmp_path: Path, reference: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(reference, folder)
    run(load_config(folder / "config.yaml"), quiet=True, resume=folder)
    assert_same(folder, reference)


def test_a_finished_run_can_be_given_more_epochs(tmp_path: Path, reference: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(reference, folder)
    more = config_of(tmp_path, "stages.distill.epochs=5")
    run(more, quiet=True, resume=folder, accept_changes=True)
    longer = run(config_of(tmp_path / "longer", "stages.distill.epochs=5"), quiet=True)
    assert [line["epoch"] for line in metrics(folder) if line["stage"] == "distill"] == list(range(5))
    one, two = weights(folder), weights(longer)
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_run_that_goes_on_cannot_be_resumed(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    with locked(folder), pytest.raises(RunError, match=f"another process is writing into '{folder}'"):
        run(config_of(tmp_path), quiet=True, resume=folder)


def test_saving_costs_no_bit(tmp_path: Path, reference: Path) -> None:
    rarely = run(config_of(tmp_path, "checkpoints={every_epochs: 100}"), quiet=True)
    assert len(states(rarely)) == 1
    assert_same(rarely, reference)


def test_minutes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: 30.0 * next(ticks))
    folder = run(config_of(tmp_path, "checkpoints={every_epochs: 100, every_minutes: 2, keep: 100}"), quiet=True)
    assert len(states(folder, "teach")) > 2


def test_the_command_ends_with_the_signal_and_goes_on(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "long.yaml"
    file.write_text(BASE.format(folder=tmp_path))
    with monkeypatch.context() as patched:
        stops = Stops(signal.SIGTERM, stage=2, step=5)
        patched.setattr("kdcore.engine.run.make_progress", lambda quiet: stops)
        assert main(["run", str(file)]) == 128 + signal.SIGTERM
    folder = only_run(tmp_path)
    assert f"kd: interrupted: saved in {folder}/checkpoints/distill/epoch-" in capfd.readouterr().err
    assert main(["run", "--quiet", "--resume", str(folder)]) == 0
    assert_same(folder, reference)


def test_what_is_no_run_folder_is_said(tmp_path: Path, reference: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", str(tmp_path / "nowhere")]) == 1
    assert "there is no run folder" in capfd.readouterr().err
    assert main(["run", "--resume", str(tmp_path)]) == 1
    assert "holds no config.yaml" in capfd.readouterr().err
    assert main(["run", "--resume", str(reference.parent)]) == 1
    assert f"holds some: {reference.name}" in capfd.readouterr().err
    assert main(["run"]) == 2
    assert "give a CONFIG, or --resume RUN" in capfd.readouterr().err
    assert main(["run", "x.yaml", "--accept-changes"]) == 2
    assert "--accept-changes belongs to --resume" in capfd.readouterr().err
