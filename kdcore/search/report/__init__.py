"""The report of a search: one HTML file that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcore.engine.folder import write_atomically

if TYPE_CHECKING:
    from kdcore.search.base import Base
    from kdcore.search.folder import SearchFolder

__all__ = ["write_search_report"]


def write_search_report(folder: SearchFolder, base: Base) -> Path:
    """Write `report.html` into the folder of a search and return its path; only what is on record is read."""
    from kdcore.search.report.page import render

    path = folder.path / "report.html"
    write_atomically(path, render(folder, base))
    return path
