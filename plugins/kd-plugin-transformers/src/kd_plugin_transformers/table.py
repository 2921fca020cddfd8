"""Rows of text and label from a CSV, TSV or JSON Lines file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdcore.errors import DataError, suggestion

Row = tuple[str, str]
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")


def read_rows(file: str, text: str, label: str) -> list[Row]:
    """Return text and label of every row, both as text; raises DataError that names the line."""
    path = Path(file).expanduser()
    if not path.is_file():
        folder = path.parent
        there = [each.name for each in folder.iterdir() if each.is_file()] if folder.is_dir() else []
        what = f"there is no file {file!r} (looked for {str(path.absolute())!r})"
        raise DataError(what, repair=suggestion(path.name, there, noun=f"files in {folder}"))
    if path.suffix not in (*_DELIMITERS, *_LINES):
        known = ", ".join((*_DELIMITERS, *_LINES))
        raise DataError(f"{file!r} has the ending {path.suffix!r}", repair=f"a table ends in {known}")
    rows = []
    try:
        for line, entries in _lines(path) if path.suffix in _LINES else _table(path):
            rows.append((_entry(entries, text, file, line), _entry(entries, label, file, line)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file!r} cannot be read: {error}", repair="save it as UTF-8 text") from error
    if not rows:
        raise DataError(f"{file!r} has no rows", repair="name a file with texts and their labels")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as stream:
        for line, content in enumerate(stream, 1):
            if not content.strip():
                continue
            try:
                entries = json.loads(content)
            except ValueError as error:
                raise DataError(f"{path!s}:{line}: no JSON: {error}", repair="each line is an object") from error
            if not isinstance(entries, dict):
                what = f"{path!s}:{line}: a {type(entries).__name__}, not an object"
                raise DataError(what, repair='each line is an object such as {"text": "...", "label": "..."}')
            yield line, entries


def _table(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # utf-8-sig: spreadsheets put a mark in front, which would become part of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=_DELIMITERS[path.suffix], strict=True)
        for entries in reader:
            # Surplus fields stand under None, absent ones are None.
            yield reader.line_num, {key: value for key, value in entries.items() if key is not None}


def _entry(entries: Mapping[str, Any], column: str, file: str, line: int) -> str:
    if column not in entries:
        raise DataError(f"{file}:{line}: there is no {column!r}", repair=suggestion(column, entries, noun="columns"))
    value = entries[column]
    if not isinstance(value, (str, int)) or value == "":
        found = "nothing" if value in (None, "") else f"{value!r}, a {type(value).__name__}"
        raise DataError(f"{file}:{line}: {column!r} holds {found}", repair="a text, or a whole number, is needed")
    return str(int(value)) if isinstance(value, bool) else str(value)
