"""What a search leaves for people: pareto.csv, report.html, and the lines that are printed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kdcore.errors import KdcoreError
from kdcore.search.base import Base
from kdcore.search.folder import SearchFolder
from kdcore.search.front import front_of
from kdcore.search.table import Cells, cells, fitted, table_lines, write_front

_log = logging.getLogger(__name__)
_MOST_ROWS = 40


def write_results(folder: SearchFolder, base: Base, tell: Callable[[str], None]) -> None:
    """Write pareto.csv and report.html from what is on record."""
    search = base.search
    try:
        front = front_of(folder.trials(), search.objectives, search.constraints)
        write_front(folder.path / "pareto.csv", front, search.space, search.objectives)
    except KdcoreError as error:
        tell(f"pareto.csv could not be written: {error.problem.what}")
    try:
        from kdcore.search.report import write_search_report

        write_search_report(folder, base)
    except Exception as error:  # neither results nor the error that ended the search may be lost to a report
        _log.warning("the report could not be written", exc_info=error)
        tell(f"the report could not be written: {type(error).__name__}: {error}")


def result_lines(folder: SearchFolder, base: Base, width: int | None = None) -> list[str]:
    """Return the table of trials, the front and the full distillations as lines of at most `width` cells."""
    search = base.search
    trials, finals = folder.trials(), folder.final_trials()
    front = front_of(trials, search.objectives, search.constraints)
    shown = trials if len(trials) <= _MOST_ROWS else [*front]
    title = "trials" if shown is trials else f"front; {len(trials)} trials are in {folder.results}"

    def lines_of(table: Cells, title: str) -> list[str]:
        return table_lines(fitted(table, width, search.objectives), title)

    space, objectives = search.space, search.objectives
    lines = lines_of(cells(shown, front, space, objectives), title) if shown else ["no trial has ended"]
    if front and shown is trials:
        lines.append("* in the Pareto front" if len(search.objectives) > 1 else "* the best")
    if finals:
        lines += ["", *lines_of(cells(finals, [], space, objectives, tested=True), "full distillations")]
    report = folder.path / "report.html"
    return ["", *lines, "", *([f"report: {report}"] if report.is_file() else [])]
