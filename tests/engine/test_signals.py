"""Signals that reach every process of a run, loader workers too, and workers that do not end by themselves."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch

from kdcore.cli.main import main
from kdcore.config.load import load_config
from kdcore.engine.interrupt import Interrupt, Interrupted
from kdcore.engine.progress import Progress
from kdcore.engine.run import run
from kdcore.plugins import Registry

PLUGIN = Path(__file__).with_name("signalled.py")

BASE = """\
version: 1
name: signalled
output_dir: {folder}
data:
  train: {{type: signalled, params: {{folder: {folder}}}, batch_size: 4, num_workers: 2}}
models:
  student: {{type: digits_mlp, params: {{width: 8, dropout: 0.2}}}}
stages:
  - name: only
    epochs: 2
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
"""
STEPS_PER_EPOCH = 24
# The batches before the one whose worker does something; it is read ahead of them.
USED = 12
DEADLINE_S = 120


class Steps(Progress):
    """Writes a dot for each step that was made, and does something after one of them."""

    def __init__(self, file: Path, at: int, act: Callable[[], None]) -> None:
        self.file, self.at, self.act, self.steps = file, at, act, 0

    def step_ended(self, terms: Any) -> None:
        self.steps += 1
        with self.file.open("a") as file:
            file.write(".")
        if self.steps == self.at:
            self.act()


class Command:
    """`kd run` as the leader of a session of its own, in a folder; `act` is called after step `at`."""

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        resume: Path | None = None,
        at: int = 0,
        act: Callable[[], None] = int,
        method: str = "fork",
    ) -> None:
        self.folder = folder
        self.method = method
        self.words = words_of(folder, *overrides) if resume is None else ["run", "--quiet", "--resume", str(resume)]
        self.words += ["--plugin", str(PLUGIN)]
        self.at, self.act = at, act
        (folder / "steps.txt").write_text("")
        self.process = multiprocessing.get_context("fork").Process(target=self._lead)
        self.process.start()

    def _lead(self) -> None:
        os.setsid()
        sys.stderr = open(self.folder / "errors.txt", "w", buffering=1)  # noqa: SIM115 - until it ends
        os.dup2(sys.stderr.fileno(), 2)
        # As other systems start loader workers, and later versions of Python.
        multiprocessing.set_start_method(self.method, force=True)
        steps = Steps(self.folder / "steps.txt", self.at, self.act)
        with mock.patch("kdcore.engine.run.make_progress", return_value=steps):
            sys.exit(main(self.words))

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid or 0, number)

    def ended(self) -> int | None:
        """Wait for its end and return the exit code; kills what is stuck."""
        try:
            # Joining would wait for what it has forked as well.
            await_(lambda: self.process.exitcode is not None)
        except AssertionError:
            self.signal(signal.SIGKILL)
            raise
        return self.process.exitcode

    @property
    def errors(self) -> str:
        return (self.folder / "errors.txt").read_text()

    @property
    def steps(self) -> int:
        return (self.folder / "steps.txt").stat().st_size

    def members(self) -> list[int]:
        """Return the processes of its session that are left."""
        found = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = file.read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(session) == self.process.pid and state != "Z":
                found.append(int(file.parent.name))
        return found


def words_of(folder: Path, *overrides: str) -> list[str]:
    """Return the command to run the config in `folder`."""
    config = folder / "signalled.yaml"
    config.write_text(BASE.format(folder=folder))
    return ["run", str(config), *(word for each in overrides for word in ("--set", each))]


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "signalled").iterdir()
    return found


def mark(folder: Path, what: str) -> None:
    (folder / "marker").write_text(what)


def await_(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "student.safetensors")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    # Here, so that what a run imports is there for all that are forked.
    folder = tmp_path_factory.mktemp("reference")
    plugins = Registry.discover()
    plugins.load_file(PLUGIN)
    config = load_config(BASE.format(folder=folder), overrides=["data.train.num_workers=0"], plugins=plugins)
    return weights(run(config, registry=plugins, quiet=True))


def assert_saved(command: Command, number: int, reference: dict[str, torch.Tensor]) -> None:
    """Assert that it ended by a signal after its last step, which was saved, and goes on to the same bits."""
    assert command.ended() == 128 + number, command.errors
    folder = run_folder(command.folder)
    done = command.steps
    saved = f"{folder}/checkpoints/only/epoch-{done // STEPS_PER_EPOCH:05d}-step-{done:09d}"
    said = f"kd: interrupted: saved in {saved}; kd run --resume {folder} --plugin {PLUGIN} goes on from there\n"
    assert command.errors.endswith(said)
    assert command.errors.count("\n") == 1, command.errors
    assert Path(saved).is_dir()
    assert json.loads((folder / "results.json").read_text())["status"] == "interrupted"
    # What other start methods need ends when it notices that nobody needs it.
    await_(lambda: not command.members()) if command.method != "fork" else None
    assert not command.members()
    assert 0 < done < 2 * STEPS_PER_EPOCH
    again = Command(command.folder, resume=folder, method=command.method)
    assert again.ended() == 0, again.errors
    assert again.steps == 2 * STEPS_PER_EPOCH - done
    found = weights(folder)
    assert found.keys() == reference.keys()
    assert [name for name in found if not torch.equal(found[name], reference[name])] == []


@pytest.mark.parametrize(
    ("names", "persistent"),
    [
        ("waited_for SIGINT", "true"),
        ("waited_for SIGTERM", "true"),
        ("waited_for SIGTERM", "false"),
        ("SIGTERM SIGTERM SIGTERM", "true"),
    ],
)
def test_a_signal_to_every_process_saves_the_step(
    tmp_path: Path, reference: dict[str, torch.Tensor], names: str, persistent: str
) -> None:
    mark(tmp_path, names)
    command = Command(tmp_path, f"data.train.persistent_workers={persistent}")
    assert_saved(command, signal.Signals[names.rsplit(maxsplit=1)[-1]], reference)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("names", ["waited_for SIGINT", "SIGTERM SIGTERM"])
def test_workers_that_are_not_forked_leave_signals_to_the_run_too(
    tmp_path: Path, reference: dict[str, torch.Tensor], names: str, method: str
) -> None:
    mark(tmp_path, names)
    assert_saved(Command(tmp_path, method=method), signal.Signals[names.rsplit(maxsplit=1)[-1]], reference)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_signal_while_workers_are_on_their_way_ends_the_run(tmp_path: Path, method: str) -> None:
    command = Command(tmp_path, method=method)
    await_(lambda: list(tmp_path.glob("signalled/*/environment.json")))
    command.signal(signal.SIGTERM)
    assert command.ended() == 128 + signal.SIGTERM, command.errors
    (said,) = command.errors.splitlines()
    assert said.startswith("kd: interrupted: ")
    assert said.endswith(f"kd run --resume {run_folder(tmp_path)} --plugin {PLUGIN} goes on from there")
    await_(lambda: not command.members())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "number"), [("fifo", signal.SIGTERM), ("loop", signal.SIGINT), ("lock", signal.SIGTERM)]
)
def test_a_worker_that_is_stuck_neither_keeps_the_run_from_saving_nor_from_ending(
    tmp_path: Path, reference: dict[str, torch.Tensor], how: str, number: int
) -> None:
    mark(tmp_path, how)
    command = Command(tmp_path)
    await_((tmp_path / "stuck").exists)
    if how != "lock":  # which may not let go of batches that were read before
        await_(lambda: command.steps == USED)
    command.signal(number)
    assert_saved(command, number, reference)


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("persistent", ["true", "false"])
def test_a_worker_that_is_stuck_does_not_outlive_the_run(tmp_path: Path, fails: bool, persistent: str) -> None:
    def act() -> None:
        await_((tmp_path / "stuck").exists)
        if fails:
            raise RuntimeError("on purpose")

    mark(tmp_path, "fifo")
    overrides = ("stages.only.epochs=1", f"stages.only.steps_per_epoch={USED}")
    command = Command(tmp_path, *overrides, f"data.train.persistent_workers={persistent}", at=USED, act=act)
    assert command.ended() == int(fails)
    assert ("on purpose" in command.errors) is fails
    assert "DataLoader worker" not in command.errors
    assert not command.members()


@pytest.mark.slow
def test_killed_it_leaves_no_worker_but_one_that_is_stuck_and_obeys(tmp_path: Path) -> None:
    mark(tmp_path, "fifo")
    command = Command(tmp_path)
    await_((tmp_path / "stuck").exists)
    os.kill(command.process.pid or 0, signal.SIGKILL)
    assert command.ended() == -signal.SIGKILL
    stuck = int((tmp_path / "stuck").read_text())
    await_(lambda: command.members() == [stuck])
    command.signal(signal.SIGTERM)
    await_(lambda: not command.members())


def test_what_a_worker_starts_can_be_told_to_end(tmp_path: Path) -> None:
    mark(tmp_path, "child")
    command = Command(tmp_path, "stages.only.epochs=1")
    assert command.ended() == 0, command.errors
    assert (tmp_path / "child_ended").exists()


@pytest.mark.slow
def test_two_processes_save_and_go_on_although_their_workers_are_signalled(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert launched(*words_of(whole)).returncode == 0
    # To one of the processes, which torchrun has made the leader of a group, and to its workers.
    mark(cut, "SIGTERM SIGTERM")
    ended = launched(*words_of(cut))
    folder = run_folder(cut)
    assert ended.returncode != 0
    assert f"kd: interrupted: saved in {folder}/checkpoints/only/epoch-00000-step-" in ended.stderr
    assert json.loads((folder / "results.json").read_text())["status"] == "interrupted"
    assert launched("run", "--resume", str(folder)).returncode == 0
    one, two = weights(folder), weights(run_folder(whole))
    assert [name for name in two if not torch.equal(one[name], two[name])] == []


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `kd` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "kdcore"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = (*words, "--plugin", str(PLUGIN))
    return subprocess.run([*command, *words], env=variables, capture_output=True, text=True, check=False)


def test_what_is_waited_for_may_be_left_at_once_by_a_lone_process() -> None:
    with Interrupt() as interrupt, interrupt.deferred():
        with pytest.raises(Interrupted), interrupt.waiting():
            signal.raise_signal(signal.SIGTERM)
        # Noted, so that nothing more is waited for.
        with pytest.raises(Interrupted) as caught, interrupt.waiting():
            pytest.fail("waited")
    assert caught.value.number == signal.SIGTERM
    with Interrupt(alone=False) as interrupt, interrupt.deferred(), interrupt.waiting():
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested == signal.SIGTERM


def test_a_repeated_sigterm_does_not_keep_a_run_from_saying_what_it_has_saved() -> None:
    def lead() -> None:
        try:
            with Interrupt():
                signal.raise_signal(signal.SIGTERM)
        except Interrupted:
            signal.raise_signal(signal.SIGTERM)
            os.write(told, b"said")
        signal.raise_signal(signal.SIGTERM)
        os.write(told, b" and went on")

    heard, told = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=lead)
    child.start()
    child.join()
    os.close(told)
    with open(heard, "rb") as stream:
        assert stream.read() == b"said"
    # Otherwise it does what it did before.
    assert child.exitcode == -signal.SIGTERM
