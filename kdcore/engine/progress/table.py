"""The final table of a run, fitted to the width at hand: for a terminal or as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from kdcore.engine import measure
from kdcore.engine.progress.tracked import clean
from kdcore.engine.row import Row, labels, metric_names

_GAP = 2
_SHORTEST_LABEL = 12
_BEST = "*"


@dataclass(frozen=True)
class Column:
    """One column: its heading, a text per row, and which of the rows are best."""

    heading: str
    texts: tuple[str, ...]
    best: tuple[bool, ...]
    optional: bool = False

    @property
    def width(self) -> int:
        """Cells needed on screen, with the mark of the best value."""
        return max(cell_len(text) for text in (self.heading, *self.marked()))

    def marked(self) -> list[str]:
        """The texts, each followed by a mark if it is best, a space if another one is."""
        if not any(self.best):
            return list(self.texts)
        return [text + (_BEST if best else " ") for text, best in zip(self.texts, self.best, strict=True)]


def result_columns(rows: Sequence[Row], width: int) -> tuple[list[Column], list[str]]:
    """Return the columns that fit into `width` cells, and the headings of those that do not."""
    columns = _all_columns(rows)
    left_out: list[str] = []
    while _needed(columns) > width:
        label, excess = columns[0], _needed(columns) - width
        dropped = next((column for column in reversed(columns) if column.optional), None)
        if label.width - excess < 2 * _SHORTEST_LABEL and dropped is not None:
            columns.remove(dropped)
            left_out.insert(0, dropped.heading)
            continue
        room = max(_SHORTEST_LABEL, label.width - excess)
        columns[0] = replace(label, texts=tuple(_shorten(text, room) for text in label.texts))
        break
    return columns, left_out


def plain_table(columns: Sequence[Column]) -> list[str]:
    """Return the table as aligned lines; the best value of a column is marked with `*`."""
    widths = [column.width for column in columns]
    lines = [[column.heading for column in columns], ["-" * width for width in widths]]
    lines += [list(texts) for texts in zip(*(column.marked() for column in columns), strict=True)]
    return [_join(cells, widths) for cells in lines]


def rich_table(columns: Sequence[Column]) -> Table:
    """Return the table for a terminal; best values stand out in bold green."""
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(Text(column.heading), justify="left" if position == 0 else "right", no_wrap=True)
    cells = [[Text(text, "bold green" if best else "") for text, best in _cells(column)] for column in columns]
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    return table


def _cells(column: Column) -> list[tuple[str, bool]]:
    return list(zip(column.texts, column.best, strict=True))


def _all_columns(rows: Sequence[Row]) -> list[Column]:
    splits = {row.split for row in rows}
    split = f"{next(iter(splits))} " if len(splits) == 1 and splits != {""} else ""
    names = metric_names(rows)
    headline = measure.headline_metric(names)
    names.sort(key=lambda name: name != headline)
    columns = [Column("", tuple(map(clean, labels(rows))), (False,) * len(rows))]
    columns += [_metric(rows, name, f"{split}{name}", optional=name != headline) for name in names]
    if any(row.parameters is not None for row in rows):
        counts = [row.parameters for row in rows]
        columns.append(_cost("parameters", counts, [measure.show_count(count) for count in counts]))
    if any(row.sparsity is not None for row in rows):
        shares = tuple(measure.show(measure.SPARSITY, row.sparsity) for row in rows)
        columns.append(Column("sparsity", shares, (False,) * len(rows)))
    if any(row.latency_ms is not None for row in rows):
        times = [row.latency_ms for row in rows]
        columns.append(_cost("latency ms", times, [measure.show("latency", time) for time in times]))
    return columns


def _metric(rows: Sequence[Row], name: str, heading: str, *, optional: bool) -> Column:
    best = [False] * len(rows)
    for split in {row.split for row in rows}:  # a value on val says nothing about one on test
        places = [place for place, row in enumerate(rows) if row.split == split]
        for place, mark in zip(places, measure.best_of(name, [rows[p].metrics.get(name) for p in places]), strict=True):
            best[place] = mark
    texts = tuple(measure.show(name, row.metrics.get(name)) for row in rows)
    return Column(heading, texts, tuple(best), optional)


def _cost(heading: str, values: Sequence[float | None], texts: Sequence[str]) -> Column:
    return Column(heading, tuple(texts), tuple(measure.best_of(heading, values)))


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _shorten(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "~"


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        text + " " * (width - cell_len(text)) if place == 0 else " " * (width - cell_len(text)) + text
        for place, (text, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return (" " * _GAP).join(padded).rstrip()
