"""The text of one split: which files, which part of them, in which order."""

from __future__ import annotations

import glob
import os
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

from kdcore.errors import DataError, suggestion

SPLITS = ("train", "val", "test")
WAYS = ("file", "position")
# The shares of train, val and test, in tenths: where val and where test begin.
VAL, TEST = 8, 9


@dataclass(frozen=True)
class Corpus:
    """Pieces of text, one after the other in `text`; `ends` says where each ends."""

    text: bytearray
    ends: list[int]

    @classmethod
    def read(cls, files: list[str] | None, split: str, split_by: str) -> Corpus:
        """Read a split of `files`; raises DataError where a file is missing or empty, or no text is left."""
        if split not in SPLITS:
            raise DataError(f"text_bytes has no split {split!r}", repair=suggestion(split, SPLITS))
        if split_by not in WAYS:
            raise DataError(f"text_bytes has no split_by {split_by!r}", repair=suggestion(split_by, WAYS))
        found = _standard_library() if files is None else _find(files)
        chosen = [path for path in found if split_by == "position" or _split_of(path) == split]
        text, ends = bytearray(), []
        for path in chosen:
            piece = _part(path.read_bytes(), split) if split_by == "position" else path.read_bytes()
            if len(piece) > 1:  # one byte predicts nothing
                text += piece
                ends.append(len(text))
        if not ends:
            raise _no_text(len(found), split, split_by)
        return cls(text, ends)


def _standard_library() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(folder.glob("*.py"), key=lambda path: path.name)
    if not found:
        raise DataError(
            f"the running Python has no standard library as .py files in {folder}",
            repair="name text files of your own under files:",
        )
    return found


def _find(patterns: list[str]) -> list[Path]:
    """Return the files that the patterns name, each once, in the order of the patterns and their paths."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        if os.path.isfile(path):
            if os.path.getsize(path) < 2:
                raise DataError(
                    f"the file {pattern!r} has no text", repair="name a file of two bytes or more under files:"
                )
            found[Path(path)] = None
            continue
        matches = sorted(Path(match) for match in glob.glob(path, recursive=True) if os.path.isfile(match))
        if not matches:
            raise DataError(
                f"no file matches {pattern!r}",
                repair=f"give the path of a text file or a glob such as texts/**/*.txt, relative to {os.getcwd()}",
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _split_of(path: Path) -> str:
    # The name alone, not its folder: the split of a file is the same on every machine.
    tenth = zlib.crc32(path.name.encode()) % 10
    return SPLITS[(tenth >= VAL) + (tenth >= TEST)]


def _part(text: bytes, split: str) -> bytes:
    val, test = len(text) * VAL // 10, len(text) * TEST // 10
    return {"train": text[:val], "val": text[val:test], "test": text[test:]}[split]


def _no_text(count: int, split: str, split_by: str) -> DataError:
    way = "give longer files" if split_by == "position" else "give more files, or split_by: position"
    return DataError(
        f"none of {count} file{'s' if count != 1 else ''} has text for the split {split!r} (split_by: {split_by})",
        repair=way,
    )
