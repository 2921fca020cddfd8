"""`kd report`: write a run's report again."""

from __future__ import annotations

import argparse

HELP = "write the report of a run folder again"
DESCRIPTION = "Read the metrics of a run folder and write its report.html; prints the report's path."
EPILOG = """example:
  kd report runs/digits-kd/20250101-120000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", metavar="RUN_FOLDER", help="a folder that kd run wrote")


def execute(arguments: argparse.Namespace) -> int:
    """Write the report."""
    from pathlib import Path

    from kdcore.engine.report import write_report

    print(write_report(Path(arguments.folder)))
    return 0
