"""The report of a run: one HTML file that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(folder: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Only what lies in `folder` is read, and the same folder gives the same file; an interrupted or
    damaged run gives a report that says what is missing.

    Raises:
        RunError: `folder` is not a run folder, or cannot be written to.
    """
    from kdcore.engine.folder import write_atomically
    from kdcore.engine.report.page import render
    from kdcore.engine.report.record import read_record

    record = read_record(Path(folder))
    path = record.folder / "report.html"
    write_atomically(path, render(record))
    return path
