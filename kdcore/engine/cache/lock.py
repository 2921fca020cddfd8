"""One writer at a time, also across processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

_POLL_SECONDS = 0.002


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, waiting for it; the system lets go of it when its holder dies."""
    with FileLock(folder / ".lock").acquire(poll_interval=_POLL_SECONDS):
        yield
