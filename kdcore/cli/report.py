"""`kd report`: write the report of a run or of a search again."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdcore.cli.arguments import add_plugin_argument

HELP = "write the report of a run or a search again"
DESCRIPTION = "Read what lies in the folder of a run or a search and write its report.html; prints the report's path."
EPILOG = """examples:
  kd report runs/digits-kd/20250101-120000
  kd report runs/digits-search/search-20250101-120000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", metavar="RUN_FOLDER", help="a folder that kd run or kd search wrote")
    add_plugin_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Write the report."""
    folder = Path(arguments.folder)
    # Both keep a config; only a search keeps its state beside it.
    print(_write_of_search(folder, arguments.plugins) if (folder / "state.json").is_file() else _write_of_run(folder))
    return 0


def _write_of_run(folder: Path) -> Path:
    from kdcore.engine.report import write_report

    return write_report(folder)


def _write_of_search(folder: Path, plugins: list[str]) -> Path:
    from kdcore.engine.plugin_files import naming_plugin_files
    from kdcore.search.base import load_base
    from kdcore.search.folder import SearchFolder
    from kdcore.search.report import write_search_report

    found = SearchFolder.existing(folder)
    with naming_plugin_files(folder, plugins, "search"):
        base = load_base(found.config, (), plugins, own=True, output_dir=None)
    return write_search_report(found, base)
