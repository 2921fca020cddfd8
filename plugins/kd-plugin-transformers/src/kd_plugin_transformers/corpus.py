"""Text files and which part of them a split holds."""

from __future__ import annotations

import glob
import os
import sysconfig
import zlib
from collections.abc import Sequence
from pathlib import Path

from kdcore.errors import DataError

# The shares of train, val and test, in tenths: where val and where test begin.
_VAL, _TEST = 8, 9


def tenth_of(name: str) -> int:
    """Return a number from 0 to 9 that depends on `name` alone, the same on every machine."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % 10


def split_of(name: str) -> str:
    """Return the split that what is so named belongs to: of ten, eight, one and one."""
    tenth = tenth_of(name)
    return "train" if tenth < _VAL else "val" if tenth < _TEST else "test"


def read_texts(files: Sequence[str] | None, split: str, split_by: str) -> list[str]:
    """Return the texts of a split, one for each file; raises DataError where there is none."""
    found = _standard_library() if files is None else _found(files)
    if split_by == "file" and split != "all":
        chosen = [path for path in found if split_of(path.name) == split]
        texts = [_read(path) for path in chosen]
    else:
        texts = [_part(_read(path), split) for path in found]
    texts = [text for text in texts if text]
    if not texts:
        raise DataError(
            f"none of {len(found)} file{'s' if len(found) != 1 else ''} has text for the split {split!r} "
            f"(split_by: {split_by})",
            repair="give more or longer files, or write split_by: position or split: all",
        )
    return texts


def _standard_library() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(folder.glob("*.py"), key=lambda path: path.name)
    if not found:
        what = f"the running Python has no standard library as .py files in {folder}"
        raise DataError(what, repair="name text files of your own under files:")
    return found


def _found(patterns: Sequence[str]) -> list[Path]:
    """Return the files that the patterns name, each once, in the order of the patterns and their paths."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        # A folder means all that is in it, but nothing hidden.
        matches = glob.glob(os.path.join(path, "**", "*") if os.path.isdir(path) else path, recursive=True)
        files = sorted(Path(match) for match in matches if os.path.isfile(match))
        if not files:
            raise DataError(
                f"no file matches {pattern!r}",
                repair=f"give a text file, a folder or a glob such as texts/**/*.txt, relative to {os.getcwd()}",
            )
        found.update(dict.fromkeys(files))
    return list(found)


def _read(path: Path) -> str:
    try:
        # Bytes first: reading as text would change the ends of lines.
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"the file {str(path)!r} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        raise DataError(what, repair="convert it to UTF-8, or leave it out of files:") from error


def _part(text: str, split: str) -> str:
    val, test = len(text) * _VAL // 10, len(text) * _TEST // 10
    return {"train": text[:val], "val": text[val:test], "test": text[test:], "all": text}[split]
