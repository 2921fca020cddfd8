"""Progress of a run, as people follow it: live in a terminal, as lines in a log, or not at all."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from kdcore.engine.progress.interface import Progress, StagePlan

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress", "StagePlan", "make_progress"]


def make_progress(console: Console | None = None, *, quiet: bool = False) -> Progress:
    """Return the progress display that fits where the output goes.

    Arguments:
        console: where to write; standard output by default. A terminal gets a live display, anything
            else (a file, a pipe, a notebook) plain lines without control characters.
        quiet: write nothing at all, as all processes but the first of a distributed run do.
    """
    if quiet:
        return Progress()
    from rich.console import Console

    from kdcore.engine.progress.live import LiveProgress
    from kdcore.engine.progress.plain import PlainProgress

    if console is not None:
        live = console.is_terminal and not console.is_dumb_terminal
    else:
        # FORCE_COLOR makes rich take a log file for a terminal; a log must stay free of control characters.
        live = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
        console = Console() if live else Console(force_terminal=False, color_system=None)
    return LiveProgress(console) if live else PlainProgress(console)
