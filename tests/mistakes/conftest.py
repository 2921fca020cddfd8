"""`kd` called inside this process, in an empty folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from kdcore import plugins
from kdcore.cli.main import main
from tests.mistakes.good import Edit, Mistaken, mistaken

PLUGIN = Path(__file__).with_name("odd.py")


class Called(NamedTuple):
    """What one call of `kd` left behind."""

    code: int
    out: str
    err: str


class Refusal:
    """Calls `kd` on mistaken configs and checks how it refuses them."""

    def __init__(self, folder: Path, call: Callable[..., Called], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.call = call
        self.monkeypatch = monkeypatch
        self.plugin = PLUGIN

    def write(self, text: str, *edits: Edit) -> Mistaken:
        """Write a mistaken config."""
        return mistaken(self.folder / "kd.yaml", text, *edits)

    def by_text(self, wrong: Mistaken, *messages: str) -> str:
        """Check that the mistake is seen without torch, by `kd validate` and by `kd run`."""
        # With these in the way nothing can be built, let alone trained.
        with self.monkeypatch.context() as patch:
            for module in ("kdcore.engine.run", "kdcore.engine.dry_run"):
                patch.setitem(sys.modules, module, None)
            err = self._refused(wrong, messages, "validate", wrong.file)
            assert self._refused(wrong, messages, "run", wrong.file, "--quiet") == err
        return err

    def by_rehearsal(self, wrong: Mistaken, *messages: str) -> str:
        """Check that the mistake is seen by one batch of every stage, before anything is trained."""
        options = ("--plugin", self.plugin)
        valid = self.call("validate", wrong.file, *options)
        assert valid.code == 0, valid.err
        err = self._refused(wrong, messages, "validate", wrong.file, "--dry-run", *options)
        assert self._refused(wrong, messages, "run", wrong.file, "--quiet", *options) == err
        return err

    def in_training(self, wrong: Mistaken, *messages: str) -> Path:
        """Check that the mistake, which no first batch shows, ends a run; returns the run folder."""
        called = self.call("run", wrong.file, "--quiet", "--plugin", self.plugin)
        _check(called, wrong, messages)
        (folder,) = (self.folder / "runs" / "tiny").iterdir()
        return folder

    def _refused(self, wrong: Mistaken, messages: tuple[str, ...], *arguments: object) -> str:
        called = self.call(*arguments)
        _check(called, wrong, messages)
        assert not (self.folder / "runs").exists()
        return called.err


def _check(called: Called, wrong: Mistaken, messages: tuple[str, ...]) -> None:
    assert called.code == 1, called.err or called.out
    assert "Traceback" not in called.err, called.err
    for position in wrong.positions:
        assert position in called.err, f"{position} is not in\n{called.err}"
    for message in messages:
        assert re.search(message, called.err), f"{message} is not in\n{called.err}"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def kd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Called]]:
    """Return a function that calls `kd` in an empty folder; what it loads is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Called:
        plugins.registry.cache_clear()
        code = main([str(argument) for argument in arguments])
        return Called(code, *capsys.readouterr())

    yield call
    plugins.registry.cache_clear()


@pytest.fixture
def refusal(tmp_path: Path, kd: Callable[..., Called], monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Return what checks that `kd` refuses mistaken configs."""
    return Refusal(tmp_path, kd, monkeypatch)
