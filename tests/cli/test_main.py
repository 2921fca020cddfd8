"""The command line as a whole: help, usage errors, exit codes, broken pipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kdcore
from kdcore.cli import main as cli
from kdcore.cli import validate

COMMANDS = ["run", "search", "cache", "validate", "plugins", "schema", "report", "export"]


def test_help_shows_every_command_and_examples(kd: Any) -> None:
    called = kd("--help")
    assert called.code == 0
    assert all(f"    {command} " in called.out for command in COMMANDS)
    assert "kd validate kd.yaml --dry-run" in called.out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(kd: Any, command: str) -> None:
    called = kd(command, "--help")
    assert called.code == 0
    assert "example" in called.out
    assert f"  kd {command}" in called.out
    assert "--traceback" in called.out


def test_the_commands_are_these() -> None:
    assert list(cli.COMMANDS) == COMMANDS


def test_version(kd: Any) -> None:
    assert kd("--version").out == f"kd {kdcore.__version__}\n"


def test_no_command_prints_the_help_as_an_error(kd: Any) -> None:
    called = kd()
    assert called.code == 2
    assert "examples:" in called.err
    assert not called.out


@pytest.mark.parametrize(("typed", "meant"), [("rnu", "run"), ("validat", "validate"), ("plugin", "plugins")])
def test_a_mistyped_command_suggests_the_nearest(kd: Any, typed: str, meant: str) -> None:
    called = kd(typed, "kd.yaml")
    assert called.code == 2
    assert f"unknown command '{typed}'; did you mean '{meant}'?" in called.err


def test_an_unlike_command_lists_them_all(kd: Any) -> None:
    assert "known commands: cache, export, plugins, report, run, schema, search, validate" in kd("xyzzy").err


def test_options_are_not_abbreviated(kd: Any, config: Path) -> None:
    called = kd("validate", config, "--dry")
    assert called.code == 2
    assert "--dry" in called.err


def test_an_error_is_one_message_without_a_traceback(kd: Any, tmp_path: Path) -> None:
    called = kd("validate", tmp_path / "absent.yaml")
    assert called.code == 1
    assert called.err.startswith("kd: ")
    assert "absent.yaml" in called.err
    assert "Traceback" not in called.err


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_traceback_on_request(kd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "variable":
        monkeypatch.setenv("KDCORE_TRACEBACK", "1")
    with pytest.raises(kdcore.KdcoreError, match="absent"):
        kd("validate", tmp_path / "absent.yaml", *(["--traceback"] if how == "option" else []))


def test_an_interrupt_is_one_line(kd: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(validate, "config_of", interrupted)
    called = kd("validate", config)
    assert (called.code, called.err) == (130, "kd: interrupted\n")


def test_a_defect_of_kdcore_keeps_its_traceback(kd: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "config_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kd("validate", config)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    # A pipe whose reading end is closed before anything is written.
    process = subprocess.Popen(
        [sys.executable, "-m", "kdcore", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_python_m_kdcore_is_kd() -> None:
    done = subprocess.run([sys.executable, "-m", "kdcore", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kd {kdcore.__version__}\n"
