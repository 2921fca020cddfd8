"""The results of a search as a table: for a terminal, as lines, and in pareto.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len

from kdcore.engine import measure
from kdcore.engine.folder import write_atomically
from kdcore.search.objectives import MEASURES, Objective
from kdcore.search.record import State, Trial
from kdcore.search.space import Space
from kdcore.search.words import short_names, show_metric, show_value

_GAP = "  "


@dataclass(frozen=True)
class Cells:
    """A table of texts; a row whose `marked` is true is in the front."""

    headings: list[str]
    rows: list[list[str]]
    marked: list[bool]


def metric_columns(objectives: Sequence[Objective], trials: Sequence[Trial], *, tested: bool = False) -> list[str]:
    """Return the metrics worth a column: the objectives, and the measures that all trials have.

    With `tested` the objectives of the validation split are followed by the same of the test split.
    """
    names = [each.metric for each in objectives]
    if tested:
        held_out = [name.replace("val/", "test/", 1) for name in names if name.startswith("val/")]
        names += [name for name in held_out if any(name in trial.metrics for trial in trials)]
    known = [trial.metrics for trial in trials if trial.state is State.COMPLETE]
    measured = [name for name in MEASURES if known and all(name in metrics for metrics in known)]
    return list(dict.fromkeys([*names, *measured]))


def cells(
    trials: Sequence[Trial],
    front: Sequence[Trial],
    space: Space,
    objectives: Sequence[Objective],
    *,
    tested: bool = False,
) -> Cells:
    """Return trials as texts: number, point, metrics, how they ended and how long they took."""
    metrics = metric_columns(objectives, trials, tested=tested)
    paths = [parameter.path for parameter in space]
    names = short_names(paths)
    in_front = {trial.number for trial in front}
    headings = ["trial", *(names[path] for path in paths), *metrics, "state", "time"]
    rows = [
        [
            str(trial.number),
            *(show_value(trial.point[path]) if path in trial.point else measure.MISSING for path in paths),
            *(show_metric(each, trial.metrics[each]) if each in trial.metrics else measure.MISSING for each in metrics),
            str(trial.state),
            measure.show_duration(trial.seconds) if trial.seconds is not None else measure.MISSING,
        ]
        for trial in trials
    ]
    return Cells(headings, rows, [trial.number in in_front for trial in trials])


def fitted(table: Cells, width: int | None, objectives: Sequence[Objective]) -> Cells:
    """Return a table without the columns that can be missed best, as far as it needs to be narrower."""
    named = {each.metric for each in objectives}
    while width is not None and max(map(cell_len, table_lines(table))) > width:
        spare = [
            place for place, name in enumerate(table.headings) if name in (*MEASURES, "time") and name not in named
        ]
        if not spare:
            break
        rows = [[text for place, text in enumerate(row) if place != spare[-1]] for row in [table.headings, *table.rows]]
        table = Cells(rows[0], rows[1:], table.marked)
    return table


def table_lines(table: Cells, title: str = "") -> list[str]:
    """Return a table as aligned lines; `*` marks what is in the front."""
    rows = [
        [text + ("*" if mark and place == 0 else " " * (place == 0)) for place, text in enumerate(row)]
        for row, mark in zip(table.rows, table.marked, strict=True)
    ]
    widths = [max(cell_len(row[place]) for row in [table.headings, *rows]) for place in range(len(table.headings))]
    lines = [table.headings, ["-" * width for width in widths], *rows]
    texts = [
        _GAP.join(" " * (width - cell_len(text)) + text for text, width in zip(line, widths, strict=True))
        for line in lines
    ]
    return [*([title] if title else []), *(text.rstrip() for text in texts)]


def write_front(file: Path, front: Sequence[Trial], space: Space, objectives: Sequence[Objective]) -> None:
    """Write the front as a table of plain values: pareto.csv."""
    metrics = metric_columns(objectives, front)
    paths = [parameter.path for parameter in space]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *paths, *metrics, "seconds", "folder"])
    for trial in front:
        point = [_plain(trial.point, path) for path in paths]
        values = [trial.metrics.get(each, math.nan) for each in metrics]
        writer.writerow([trial.number, *point, *values, trial.seconds, trial.folder])
    write_atomically(file, text.getvalue())


def _plain(point: Mapping[str, object], path: str) -> object:
    from kdcore.search.values import token

    value = point.get(path)
    return token(value) if isinstance(value, (dict, list, bool)) else value
