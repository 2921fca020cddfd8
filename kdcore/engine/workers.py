"""The processes that read for a loader: the signals that end a run pass them by, and the run's end is theirs."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_signals(worker: int) -> None:
    """Leave signals that reach every process of a run to the one that can save it; called in a new worker.

    A terminal, `timeout`, a scheduler or a launcher signals all processes at once. A worker that died of it would take
    along the batch that the main process waits for, and with it the step that could be saved.

    Signals are caught, since what a data set starts (a decoder, say) would inherit them ignored or blocked, and would
    no longer end when it is told to. Who sent a signal cannot be known here, and a handler does not run while compiled
    code does: so the main process ends workers by a signal that nobody can miss, see `mortal`.
    """
    parent = os.getppid()

    def take(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:  # there is nothing left to read for
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    # A signal for a worker is none for the main process, whose event loop it would wake.
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, take)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    sys.excepthook = _unless_left


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back while workers start, who hold them back too, until they can leave them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        # Started on the way, it would let the signals through when it is there.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mortal(batches: Iterator[Any]) -> Iterator[Any]:
    """Let a loader's workers, which leave SIGTERM to others, be killed where torch or Python would terminate them.

    Both do so only where nothing more is wanted of a worker: when one that was asked to end has not done so, or when
    this process exits, which would else wait for it for ever.
    """
    for worker in getattr(batches, "_workers", ()):
        # Python terminates what is left at its exit by this method, not by the worker's own.
        worker._popen.terminate = functools.partial(_kill, weakref.proxy(worker))
    return batches


@contextlib.contextmanager
def deaths_unheard() -> Iterator[None]:
    """Let torch not raise for a worker that dies meanwhile, which would cut in two whatever this process is doing.

    It finds out all the same when it waits for that worker's next batch.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # Not ignored, which would take the children of others from under them: by default nothing happens.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before if before is not None else signal.SIG_DFL)


def dismiss(batches: Iterator[Any]) -> None:
    """End a loader's workers, and torch's watch over them.

    A worker's broken pipe can be noticed before the signal of its death, at which torch raises wherever this process
    happens to be: while the run's results and report are written, say.
    """
    end = getattr(batches, "_shutdown_workers", None)
    if end is not None:
        with contextlib.suppress(RuntimeError):  # the signal itself, now of no more interest
            end()


def _unless_left(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print what ends a worker's helping thread, but not that the main process left while it was handed a tensor."""
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


def _kill(worker: Any) -> None:
    """Kill a worker and see it dead: torch raises for one whose death it finds out about first."""
    for _ in range(2):  # it may find out between the two
        with contextlib.suppress(RuntimeError):
            worker.kill()
            worker.join()
