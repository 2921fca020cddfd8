"""A lock on a run folder, so that two runs never write into one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kdcore.engine.disk import disk_errors
from kdcore.errors import RunError

LOCK = ".lock"


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
