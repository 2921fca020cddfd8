"""A lock on a folder: of a run, so that two never write into one, or of a cache, where they take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kdcore.engine.disk import disk_errors
from kdcore.errors import RunError

LOCK = ".lock"
_POLL_SECONDS = 0.002


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`; the system lets it go when the process ends, however it does.

    Raises:
        RunError: another process holds it.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    with disk_errors(folder / LOCK):
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(
                f"another process is writing into {str(folder)!r}",
                repair="wait until it ends, or end it; then resume",
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, waiting for it; the system lets it go when its holder dies."""
    with FileLock(folder / LOCK).acquire(poll_interval=_POLL_SECONDS):
        yield
