"""What users are told to do next: commands that work as they stand when copied, or calls from Python."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kdcore.launcher import process_count, processes_here

__all__ = ["Advice", "Call", "Command"]

_PROGRAMS = ("kd", "kd.exe")


class Advice(Protocol):
    """How to go on with a folder, said to somebody who works in one way or another."""

    accept: str
    # What follows `resume` where a setting of the config changes.
    changing: str

    def resume(self, folder: Path, processes: int | None = None) -> str:
        """Return how to go on with `folder`, with that many processes instead of as many as now."""


class Call:
    """For somebody who has called a function from Python.

    Arguments:
        call: the call, with the braces `{folder}` where the folder's text belongs.
    """

    accept = "pass accept_changes=True"
    changing = " with {} in the config"

    def __init__(self, call: str) -> None:
        self._call = call

    def resume(self, folder: Path, processes: int | None = None) -> str:
        """Return the call."""
        call = self._call.replace("{folder}", repr(str(folder)))
        return call if processes is None else f"{call} in {_counted(processes)}"


class Command:
    """For somebody who has typed a command.

    Arguments:
        name: of the command: `kd NAME`.
        plugins: the plugin files that it was given, as they were written.
    """

    accept = "add --accept-changes"
    changing = " --set {}"

    def __init__(self, name: str, plugins: Sequence[str | Path] = ()) -> None:
        self._name = name
        # Both now: whatever runs later may change the working directory.
        self._plugins = [(str(file), Path(file).absolute()) for file in dict.fromkeys(plugins)]

    def resume(self, folder: Path, processes: int | None = None) -> str:
        """Return the command, with the launcher where there are several processes."""
        files = [word for written, file in self._plugins for word in ("--plugin", _reached(written, file))]
        words = [self._name, "--resume", str(folder), *files]
        count = process_count() if processes is None else processes
        if count == 1:
            return shlex.join([*_program(), *words])
        module = ["-m", "kdcore", *words]
        if processes is None and processes_here() != count:
            return f"the same launcher with {shlex.join(module)}"
        return shlex.join([*_launcher(), "--nproc_per_node", str(count), *module])


def _reached(written: str, file: Path) -> str:
    """Return a file as it was written, if that leads to it from here."""
    return written if Path(written).absolute() == file else str(file)


def _program() -> list[str]:
    """Return the words that start `kd` as it was started now."""
    started = Path(sys.argv[0])
    if (started.parent.name, started.name) == ("kdcore", "__main__.py"):
        return [_named(Path(sys.executable)), "-m", "kdcore"]
    return [_named(started)] if started.name in _PROGRAMS else ["kd"]


def _launcher() -> list[str]:
    """Return the words that start torchrun, which does for a run all that Accelerate's launcher does."""
    beside = Path(sys.executable).with_name("torchrun")
    return [_named(beside)] if beside.is_file() else [_named(Path(sys.executable)), "-m", "torch.distributed.run"]


def _named(program: Path) -> str:
    """Return the name of a program alone if a shell finds this very file by it."""
    found = shutil.which(program.name)
    return program.name if found is not None and Path(found).absolute() == program.absolute() else str(program)


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
