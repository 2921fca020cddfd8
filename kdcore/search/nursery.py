"""The process that trials are forked from: it imports what they need once, and never computes.

`python -m kdcore.search.nursery SOCKET` takes commands on its standard input, a line of JSON each:
`{"import": [modules]}` and `{"fork": birth}`. A forked process connects to the socket, says which birth it is and
gets its Job. Standard output has a line `{"birth": ..., "code": ...}` for each that has ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from kdcore.plugins import FILE_MODULE
from kdcore.search.job import Job

# Libraries that must not be there when a process forks.
_FORK_HOSTILE = ("grpc",)


def main(address: str) -> None:
    """Serve until standard input ends."""
    # Signals to all are for the search, which passes on what its trials are to know; held until here, they are dropped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    reports = os.dup(1)
    os.dup2(2, 1)
    import kdcore.search.warm  # noqa: F401

    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    births: dict[int, int] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _reap(births, reports)
        if 0 not in ready:
            continue
        text = os.read(0, 1 << 16)
        if not text:
            return
        *lines, rest = (rest + text).split(b"\n")
        for line in lines:
            _obey(json.loads(line), address, births, (reports, woken, wake))


def _obey(command: dict[str, Any], address: str, births: dict[int, int], own: Sequence[int]) -> None:
    for name in command.get("import", ()):
        # Whatever is wrong with a module is said by the trial that needs it.
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(name)
    if "fork" not in command:
        return
    pid = os.fork()
    if pid:
        births[pid] = command["fork"]
        return
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for descriptor in own:
        os.close(descriptor)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _work(address, command["fork"])


def _reap(births: dict[int, int], reports: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        line = {"birth": births.pop(pid, None), "code": os.waitstatus_to_exitcode(status)}
        os.write(reports, json.dumps(line).encode() + b"\n")


def _work(address: str, birth: int) -> NoReturn:
    """Be a worker: run one job and say how it ended."""
    code = 1
    try:
        connection, job, target = _report(address, birth)
        _redirect(job)
        before = set(sys.modules)
        channel = _Pipe(connection)
        module, _, function = target.partition(":")
        outcome = getattr(importlib.import_module(module), function)(job, channel)
        channel.tell("imported", [name for name in sys.modules if name not in before and _can_be_shared(name)])
        channel.send("ended", "", outcome)
        code = 0
    except BaseException:  # the search hears of it by the exit code, people by what is printed
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing that a trial leaves behind, a loader's worker or a thread, may keep it from ending.
    os._exit(code)


def _report(address: str, birth: int) -> tuple[Any, Job, str]:
    """Tell the search that a worker is born; returns the connection, the job and what runs it."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            connection: Any = Connection(client.detach())
        connection.send((birth, os.getpid()))
        return connection, *connection.recv()
    except (EOFError, OSError):
        # The search has died, so there is nobody whom a traceback could tell anything.
        os._exit(1)


class _Pipe:
    """A Channel over a connection; when the search has died, so does this process, at once."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._answers: list[bool] = []
        self._arrived = threading.Semaphore(0)
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, name: str, data: Any) -> None:
        self.send("told", name, data)

    def ask(self, name: str, data: Any) -> bool:
        self.send("asked", name, data)
        self._arrived.acquire()
        return self._answers.pop()

    def send(self, kind: str, name: str, data: Any) -> None:
        try:
            self._connection.send((kind, name, data))
        except OSError:
            os._exit(1)

    def _listen(self) -> None:
        while True:
            try:
                answer = self._connection.recv()
            except (EOFError, OSError):
                # Nobody would take the result, and a search that goes on needs the folder.
                os._exit(1)
            self._answers.append(answer)
            self._arrived.release()


def _redirect(job: Job) -> None:
    """Send what libraries print into the trial's folder: the terminal belongs to the search."""
    target = os.devnull if job.output is None else job.output
    with open(target, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _can_be_shared(name: str) -> bool:
    spec = getattr(sys.modules[name], "__spec__", None)
    own = name.startswith((FILE_MODULE, "__"))
    return spec is not None and not own and name.split(".", maxsplit=1)[0] not in _FORK_HOSTILE


if __name__ == "__main__":
    main(sys.argv[1])
