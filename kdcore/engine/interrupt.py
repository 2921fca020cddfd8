"""Signals that end a run: noticed at once, obeyed where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was told to end; `advice` says what was saved and how to go on.

    A KeyboardInterrupt, so that no code that handles errors takes it for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.advice = ""


class Abandoned(KeyboardInterrupt):
    """A run was told by a second SIGINT to end there and then; `advice` says how to go on from what was saved."""

    advice = ""


class Interrupt:
    """Takes SIGINT and SIGTERM while a run lasts.

    Inside `deferred` the first signal is only noted, for `check` or `waiting` to raise where the state of
    training is whole; a SIGINT after it ends the run there and then. A SIGTERM after it says nothing new:
    `timeout` and schedulers send it to the run and then to its whole group. Outside, a signal ends it at once.
    Only the main thread can take signals: elsewhere this does nothing.

    Arguments:
        vote: returns, from what each process has received (0 for nothing), what all of them act on.
        alone: whether this is the only process of the run. Launchers of several pass on the signal that these
            have received already, so that none insists; and none of them can end by itself.
    """

    def __init__(self, vote: Callable[[int], int] = int, *, alone: bool = True) -> None:
        self.requested: int | None = None
        self._vote = vote
        self._alone = alone
        self._deferring = False
        self._waiting = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            unsaid = isinstance(error, Interrupted) and number == signal.SIGTERM and handler is signal.SIG_DFL
            signal.signal(number, _unless_ending if unsaid else handler)
        self._previous.clear()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Note a first signal instead of raising; whoever is inside calls `check`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Raise a signal at once, deferred or not: what is waited for may never come, and nothing of it is in use."""
        if not self._alone:
            yield
            return
        self._waiting = True
        try:
            if self.requested is not None:
                raise Interrupted(self.requested)
            yield
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raise Interrupted if a signal has come, to whichever process: all of them raise in the same place."""
        number = self._vote(self.requested or 0)
        if number:
            self.requested = number
            raise Interrupted(number)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            if self._alone and number == signal.SIGINT:
                self.requested = number
                raise Abandoned
            return
        self.requested = number
        if self._waiting or not self._deferring:
            raise Interrupted(number)


def _unless_ending(number: int, frame: FrameType | None) -> None:
    """Do what a signal does by default, but not to a process that has yet to say what another one has ended."""
    if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
