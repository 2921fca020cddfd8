"""Disks that are full or cannot be written, said so that somebody can do something about it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from kdcore.errors import RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
# What is written before it is renamed.
_PARTIAL = re.compile(r"\.(?P<name>.+)\.\d+\.part")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write of `path` into a RunError that says why, and how much room there is."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error


def flush(path: Path) -> None:
    """Have the system write a file or folder out, so that a power cut after a renaming cannot empty it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(path: Path, error: OSError | SafetensorError) -> RunError:
    number = _errno(error)
    path = _meant(path)
    if number in _FULL:
        what = f"there is no room for {str(path)!r} ({_free(path)}): {os.strerror(number)}"
        return RunError(what, repair="make room on that disk; nothing that was saved before is lost")
    if number in FORBIDDEN:
        what = f"{str(path)!r} cannot be written: {os.strerror(number)}"
        return RunError(what, repair="make the folder writable, or choose another output_dir")
    reason = os.strerror(number) if number else str(error).split("\n")[0]
    return RunError(f"{str(path)!r} cannot be written: {reason}", repair="check the disk that holds it")


def _meant(path: Path) -> Path:
    """Return where a file was to be in the end, for readers who know no names of what is half written."""
    found = [_PARTIAL.fullmatch(part) for part in path.parts]
    return Path(*(each["name"] if each else part for each, part in zip(found, path.parts, strict=True)))


def _errno(error: OSError | SafetensorError) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else 0


def _free(path: Path) -> str:
    folder = next((each for each in path.absolute().parents if each.is_dir()), Path("/"))
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError:
        return "free space unknown"
