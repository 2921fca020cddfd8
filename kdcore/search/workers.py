"""Processes for trials: one each, forked from a process that has imported everything, so that they start at once."""

from __future__ import annotations

import contextlib
import json
import multiprocessing.connection
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kdcore.engine.workers import signals_held
from kdcore.errors import RunError
from kdcore.search.job import Job, Outcome

TRIAL = "kdcore.search.trial:run_trial"

# Longer than a run takes to save its state.
GRACE_S = 60.0

_LONGEST_FOLDER = 70
_TOLD = (signal.SIGINT, signal.SIGTERM)


class Event(NamedTuple):
    """What a worker tells: `asked` waits for an answer, `told` does not, `ended` is the last, `died` instead of it."""

    number: int
    kind: str
    name: str = ""
    data: Any = None


@dataclass
class _Worker:
    job: Job
    birth: int
    connection: Any = None
    pid: int | None = None


class Workers:
    """Runs jobs in processes of their own, so that one that crashes or is killed harms no other.

    Arguments:
        modules: what is imported before the first process is forked, besides what every trial needs. What the first
            trial imports on its way is imported for the others too.
        target: `module:function`, which a process calls with its Job and a Channel.

    Raises:
        RunError: this system cannot fork processes.
    """

    def __init__(self, modules: Iterable[str] = (), target: str = TRIAL) -> None:
        if not hasattr(os, "fork"):
            raise RunError(
                "trials run in forked processes, which this system does not have",
                repair="use Linux or macOS (on Windows: WSL), or Search(config, train_and_evaluate)",
            )
        self._modules = list(modules)
        self._target = target
        self._workers: dict[int, _Worker] = {}
        # A socket's path has little room: where temporary files go deep into a tree, the system's own place is used.
        deep = len(tempfile.gettempdir()) > _LONGEST_FOLDER
        self._folder = Path(tempfile.mkdtemp(prefix="kdcore-", dir="/tmp" if deep else None))  # noqa: S108 - private by mkdtemp
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._folder / "socket"))
        self._socket.listen()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._reports = b""
        self._learnt = False
        # Counts processes, since jobs of different kinds may have one number.
        self._births = 0
        self._born = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            _signal(worker, signal.SIGKILL)
        self._workers.clear()
        self._socket.close()
        if self._nursery is not None:
            self._leave_nursery(self._nursery)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._workers)

    def start(self, job: Job) -> None:
        """Begin a job."""
        taken = {worker.job.slot for worker in self._workers.values()}
        slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        self._births += 1
        self._workers[job.number] = _Worker(replace(job, slot=slot), self._births)
        self._command({"fork": self._births})

    def wait(self, timeout: float | None = None) -> list[Event]:
        """Return what has happened, after `timeout` seconds at the latest; nothing if nothing runs."""
        if not self._workers:
            return []
        connected = {each.connection: number for number, each in self._workers.items() if each.connection is not None}
        reports = self._nursery.stdout if self._nursery is not None else None
        sources: list[Any] = [self._socket, *([reports] if reports is not None else []), *connected]
        events: list[Event] = []
        found: list[Any] = multiprocessing.connection.wait(sources, timeout)
        for ready in found:
            if ready is self._socket:
                self._welcome()
            elif ready is reports:
                events += self._read_reports()
            else:
                events += self._read(connected[ready])
        return events

    def answer(self, number: int, go: bool) -> None:
        """Answer what a job asked; one that has died meanwhile needs none."""
        worker = self._workers.get(number)
        if worker is not None and worker.connection is not None:
            with contextlib.suppress(OSError):
                worker.connection.send(go)

    def interrupt(self) -> Iterator[Event]:
        """Let every job save its state and end; yields what they still tell."""
        for worker in self._workers.values():
            _signal(worker, signal.SIGTERM)
        # Those that have not begun have nothing to save.
        for number in [number for number, worker in self._workers.items() if worker.connection is None]:
            del self._workers[number]
        deadline = time.monotonic() + GRACE_S
        while self._workers and time.monotonic() < deadline:
            for event in self.wait(timeout=1.0):
                if event.kind == "asked":
                    self.answer(event.number, go=True)
                elif event.kind != "died":  # by the signal, before it could say so: it goes on when the search does
                    yield event

    def _command(self, command: dict[str, Any]) -> None:
        if self._nursery is None:
            self._nursery = self._new_nursery()
            self._reports, self._born = b"", False
            self._send({"import": self._modules})
        self._send(command)

    def _new_nursery(self) -> subprocess.Popen[bytes]:
        # In a session of its own, which no signal of the terminal reaches; what reaches it all the same finds it ready.
        with signals_held():
            return subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "kdcore.search.nursery", str(self._folder / "socket")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
            )

    def _send(self, command: dict[str, Any]) -> None:
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its reports end too, which is noticed there
            self._nursery.stdin.write(json.dumps(command).encode() + b"\n")

    def _welcome(self) -> None:
        """Give a process that was forked its job."""
        accepted, _ = self._socket.accept()
        connection: Any = multiprocessing.connection.Connection(accepted.detach())
        with contextlib.suppress(EOFError, OSError):
            birth, pid = connection.recv()
            number = self._number(birth)
            worker = None if number is None else self._workers[number]
            if worker is None:
                connection.close()
                return
            worker.connection, worker.pid, self._born = connection, pid, True
            connection.send((worker.job, self._target))

    def _read(self, number: int) -> list[Event]:
        worker = self._workers.get(number)
        if worker is None or worker.connection is None:
            return []
        try:
            kind, name, data = worker.connection.recv()
        except (EOFError, OSError):
            worker.connection.close()
            worker.connection = None
            # How it ended the nursery says, unless that has ended itself.
            return [] if self._nursery is not None else self._died(number, "its process has ended")
        if name == "imported":
            self._learn(data)
            return []
        if kind == "ended":
            worker.connection.close()
            del self._workers[number]
        return [Event(number, kind, name, data)]

    def _learn(self, modules: list[str]) -> None:
        """Have what the first job imported on its way imported for all that follow."""
        if self._nursery is not None and not self._learnt:
            self._learnt = True
            self._modules += modules
            self._send({"import": modules})

    def _read_reports(self) -> list[Event]:
        assert self._nursery is not None
        assert self._nursery.stdout is not None
        text = self._nursery.stdout.read(1 << 16)
        if not text:
            self._leave_nursery(self._nursery)
            self._nursery = None
            if not self._born:
                raise RunError(
                    "the process that trials are forked from has ended before the first of them",
                    repair=f"{sys.executable} -m kdcore.search.warm says why",
                )
            unborn = [number for number, worker in self._workers.items() if worker.connection is None]
            reason = "the process that trials are forked from has ended"
            return [event for number in unborn for event in self._died(number, reason)]
        *lines, self._reports = (self._reports + text).split(b"\n")
        found = []
        for line in lines:
            report = json.loads(line)
            number = self._number(report["birth"])
            if number is not None:
                found += self._drained(number)
                if -report["code"] in _TOLD and self._workers.pop(number, None) is not None:
                    # Told to end before it could say that it has.
                    found.append(Event(number, "ended", data=Outcome(None)))
                found += self._died(number, exit_reason(report["code"]))
        return found

    def _number(self, birth: int) -> int | None:
        """Return the job of a process; None if that has ended."""
        return next((number for number, worker in self._workers.items() if worker.birth == birth), None)

    def _drained(self, number: int) -> list[Event]:
        """Return what a process that has ended had still said."""
        found: list[Event] = []
        while (worker := self._workers.get(number)) is not None and worker.connection is not None:
            found += self._read(number)
        return found

    def _died(self, number: int, reason: str) -> list[Event]:
        if self._workers.pop(number, None) is None:
            return []
        return [Event(number, "died", data=reason)]

    @staticmethod
    def _leave_nursery(nursery: subprocess.Popen[bytes]) -> None:
        for stream in (nursery.stdin, nursery.stdout):
            if stream is not None:
                stream.close()
        nursery.kill()
        nursery.wait()


def exit_reason(code: int) -> str:
    """Return in words how a process ended that did not say so itself."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints = {
        "SIGKILL": "killed, by the system if memory ran out",
        "SIGSEGV": "crashed: an error in compiled code",
        "SIGABRT": "aborted: an error in compiled code",
        "SIGBUS": "crashed: an error in compiled code, or shared memory ran out",
    }
    return f"its process was ended by {name}" + (f" ({hints[name]})" if name in hints else "")


def _signal(worker: _Worker, number: signal.Signals) -> None:
    # Without a connection it has not begun, or has ended and its number may be another's.
    if worker.pid is not None and worker.connection is not None:
        with contextlib.suppress(OSError):
            os.kill(worker.pid, number)
