"""Disks that are full, workers that die, memory that runs out: a clear message, and a folder that can be resumed."""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, get_worker_info

from kdcore.component import Input
from kdcore.config.load import load_config
from kdcore.engine import checkpoint
from kdcore.engine.disk import disk_errors
from kdcore.engine.interrupt import Interrupted
from kdcore.engine.progress import Progress
from kdcore.engine.report import write_report
from kdcore.engine.run import run
from kdcore.engine.workers import deaths_unheard
from kdcore.errors import KdcoreError, RunError
from kdcore.hookspecs import hookimpl
from kdcore.plugins import Registry

BASE = """\
version: 1
name: unlucky
output_dir: {folder}
data:
  train: {{type: digits, params: {{split: train, samples_per_class: 8}}, batch_size: 16, shuffle: true}}
  val: {{type: digits, params: {{split: val}}, batch_size: 256}}
models:
  teacher: {{type: digits_mlp, params: {{width: 8}}, weights: as_built}}
  student: {{type: digits_mlp, params: {{width: 400}}}}
stages:
  - name: only
    epochs: 2
    train: [student]
    losses:
      ce: cross_entropy
      kd: kd
    optimizer: {{type: AdamW, params: {{lr: 0.01}}}}
"""


def the_run(folder: Path) -> Path:
    (found,) = (folder / "unlucky").iterdir()
    return found


def same(one: Path, two: Path) -> bool:
    first, second = (safetensors.torch.load_file(each / "student.safetensors") for each in (one, two))
    return all(torch.equal(first[name], second[name]) for name in first)


def config_of(folder: Path, *overrides: str, plugins: Registry | None = None) -> Any:
    return load_config(BASE.format(folder=folder), overrides=overrides, plugins=plugins)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config_of(tmp_path_factory.mktemp("reference")), quiet=True)


def with_files_of_at_most(size: int, folder: Path, plugins: Registry | None = None) -> str:
    """Run in a process where no file may be larger than `size`, as on a disk that is nearly full; returns the error."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            run(config_of(folder), quiet=True, registry=plugins)
        except RunError as error:
            (folder / "told").write_text(str(error))

    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join()
    return (folder / "told").read_text()


@pytest.mark.parametrize("limit", [500_000, 1_000_000])
def test_a_disk_without_room_for_a_checkpoint_loses_nothing(tmp_path: Path, reference: Path, limit: int) -> None:
    # The weights take 0.8 MB and the optimizer's state twice as much, so each limit meets another file.
    text = with_files_of_at_most(limit, tmp_path)
    assert re.search(r"there is no room for '\S+/checkpoints/\S+' \(", text), text
    assert ".part" not in text
    assert "MiB free" in text
    assert "make room on that disk" in text
    folder = the_run(tmp_path)
    assert not [each for each in folder.rglob("*") if each.name.endswith(".part")]
    assert json.loads((folder / "results.json").read_text())["status"] == "failed"
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert same(folder, reference)


def test_metrics_without_room_leave_no_half_line(tmp_path: Path, reference: Path) -> None:
    limit = 3_000_000

    class Fills:
        @hookimpl
        def epoch_ended(self, folder: Path) -> None:
            file = folder / "metrics.jsonl"
            with file.open("a") as stream:
                stream.write("\n" * (limit - 10 - file.stat().st_size))

    plugins = Registry.discover()
    plugins.manager.register(Fills())
    assert "metrics.jsonl'" in with_files_of_at_most(limit, tmp_path, plugins)
    folder = the_run(tmp_path)
    assert (folder / "metrics.jsonl").stat().st_size == limit - 10
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert same(folder, reference)
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines() if line] == [0, 1]


def test_a_folder_that_cannot_be_made_or_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"'/proc/unlucky/.*' cannot be made.*\n.*choose another output_dir"):
        run(config_of(Path("/proc")), quiet=True)
    with (
        pytest.raises(RunError, match=r"cannot be written: Read-only file system\n.*another output_dir"),
        disk_errors(tmp_path),
    ):
        raise OSError(errno.EROFS, "x")
    with (
        pytest.raises(RunError, match=r"cannot be written: Input/output error\n.*check the disk"),
        disk_errors(tmp_path),
    ):
        raise OSError(errno.EIO, "x")


class Mortal(Dataset[dict[str, Any]]):
    """Its worker dies once, on its tenth sample."""

    random = False
    num_classes = 2

    def __init__(self, marker: str = "") -> None:
        self.marker = Path(marker)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 10 and get_worker_info() is not None and self.marker.exists():
            self.marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(index)
        return {"input": torch.randn(1, 8, 8, generator=generator), "target": index % 2}


def test_a_dead_worker_ends_the_run_and_leaves_it_whole(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    plugins = Registry.discover()
    schema = {"type": "object", "additionalProperties": False, "properties": {"marker": {"type": "string"}}}
    plugins.register("dataset", "mortal", Mortal, schema=schema)
    overrides = (f"data={{train: {{type: mortal, params: {{marker: {marker}}}, num_workers: 1, batch_size: 8}}}}",)
    with pytest.raises(KdcoreError, match=r"DataLoader worker \(pid.*\n.*for want of memory: lower num_workers"):
        run(config_of(tmp_path, *overrides, plugins=plugins), quiet=True, registry=plugins)
    folder = the_run(tmp_path)
    assert json.loads((folder / "results.json").read_text())["status"] == "failed"
    run(config_of(tmp_path, *overrides, plugins=plugins), quiet=True, registry=plugins, resume=folder)
    assert json.loads((folder / "results.json").read_text())["status"] == "completed"


class Ends(Progress):
    """Tells its own process to end after the third step."""

    def __init__(self) -> None:
        self.steps = 0
        self.messages: list[str] = []

    def step_ended(self, terms: Any) -> None:
        self.steps += 1
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_a_worker_that_dies_while_the_step_is_saved_changes_nothing(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = checkpoint._write

    def killing(*arguments: Any) -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid or 0, os.WEXITED | os.WNOWAIT)
        written(*arguments)

    monkeypatch.setattr(checkpoint, "_write", killing)
    advice = ""
    try:
        run(config_of(tmp_path, "data.train.num_workers=1"), progress=Ends())
    except Interrupted as signal_:
        advice = signal_.advice
    gc.collect()  # its frames keep the loader, and with it torch's watch over the worker
    assert "saved in " in advice
    assert "epoch-00000-step-000000003" in advice
    monkeypatch.undo()
    folder = the_run(tmp_path)
    run(config_of(tmp_path), quiet=True, resume=folder)
    assert same(folder, reference)


def test_deaths_are_heard_again() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
    try:
        with deaths_unheard():
            signal.raise_signal(signal.SIGCHLD)
        assert not heard
        signal.raise_signal(signal.SIGCHLD)
        assert heard == [signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    ("error", "logged"), [(RunError("no room"), 0), (PermissionError("not yours"), 0), (ValueError("a bug"), 1)]
)
def test_only_a_report_that_fails_for_no_known_reason_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, logged: int
) -> None:
    monkeypatch.setattr("kdcore.engine.run.write_report", mock.Mock(side_effect=error))
    progress = Ends()
    with pytest.raises(Interrupted):
        run(config_of(tmp_path), progress=progress)
    assert len(caplog.records) == logged
    (told,) = [text for text in progress.messages if "the report could not be written" in text]
    assert str(error) in told
    assert f"kd report {the_run(tmp_path)} tries again" in told


def test_a_report_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = run(config_of(tmp_path, "stages.only.epochs=1"), quiet=True)
    (folder / "report.html").unlink()
    with (
        mock.patch.object(Path, "replace", side_effect=OSError(errno.ENOSPC, "x")),
        pytest.raises(RunError, match=r"there is no room for '\S+/report\.html'"),
    ):
        write_report(folder)
    assert not [each for each in folder.rglob("*") if each.name.endswith(".part")]


class Hungry(nn.Module):
    """Wants more memory than there is, from the given training step on."""

    def __init__(self, step: int = 0) -> None:
        super().__init__()
        self.step, self.now = step, -1

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.now = step

    def forward(self, input: Tensor) -> Tensor:
        if self.now >= self.step:
            torch.empty(2**50)
        return input.mean()


@pytest.mark.parametrize("step", [-1, 3])
def test_memory_that_runs_out_is_accounted_for(tmp_path: Path, step: int) -> None:
    plugins = Registry.discover()
    schema = {"type": "object", "properties": {"step": {"type": "integer"}}}
    plugins.register("loss", "hungry", Hungry, schema=schema, inputs=[Input("input")])
    term = f"stages.only.losses.odd={{type: hungry, params: {{step: {step}}}, inputs: {{input: student}}}}"
    with pytest.raises(RunError) as caught:
        run(config_of(tmp_path, term, plugins=plugins), quiet=True, registry=plugins)
    text = str(caught.value)
    assert "out of memory in stage 'only': can't allocate memory: you tried to allocate 4503599627370496 bytes" in text
    assert "student holds 0.7" in text
    assert ("the optimizer's state holds 1.4" in text) == (step > 0)
    assert "lower batch_size, and raise accumulate as much" in text
    assert "write cache: true for teacher" in text
    assert "precision: bfloat16" in text
