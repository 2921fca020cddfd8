"""`kd search`: find the best students of a space."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from kdcore.advice import Command
from kdcore.cli.arguments import add_config_arguments

HELP = "search for the best students of a space"
DESCRIPTION = """Try points of the space that a config describes under search:, each by a short run of its own, and keep
the Pareto front; then distil what was chosen in full."""
EPILOG = """examples:
  kd search search.yaml
  kd search search.yaml --jobs 2 --set search.max_trials=50
  kd search --resume runs/digits/search-20260131-180000               go on with a search that was interrupted
  kd search --resume runs/digits/search-20260131-180000 --trials 20   train 20 more
  kd search --show runs/digits/search-20260131-180000                 print what it has found so far
  folder=$(kd search search.yaml --quiet)     for scripts: prints the folder and nothing else
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="trials that run at once, each with its share of the cores"
    )
    parser.add_argument(
        "--trials", type=int, metavar="N", help="train so many trials, beyond those on record, instead of max_trials"
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with the search in this folder, by its own config unless CONFIG is given"
    )
    parser.add_argument("--show", metavar="RUN", help="print the table and the front of a search, and train nothing")
    parser.add_argument(
        "--output-dir", metavar="DIR", help="the folder that receives NAME/search-STAMP/, instead of the config's"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress; print the folder and nothing else")


def execute(arguments: argparse.Namespace) -> int:
    """Search, or show what was found."""
    if arguments.show is not None:
        return _show(arguments)
    if arguments.config is None and arguments.resume is None:
        arguments.usage_error("give a CONFIG, --resume RUN or --show RUN")
    for name in ("jobs", "trials"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            arguments.usage_error(f"--{name} must be 1 or more, found {value}")
    overrides = list(arguments.overrides)
    if arguments.jobs is not None:
        overrides.append(f"search.jobs={json.dumps(arguments.jobs)}")
    from kdcore.engine.plugin_files import naming_plugin_files
    from kdcore.search.search import Search

    with naming_plugin_files(arguments.resume, arguments.plugins, "search"):
        search = Search(
            arguments.config,
            overrides=overrides,
            plugins=arguments.plugins,
            resume=arguments.resume,
            trials=arguments.trials,
            output_dir=arguments.output_dir,
            quiet=arguments.quiet,
            advice=Command("search", arguments.plugins),
        )
    result = search.run()
    if arguments.quiet:
        print(result.folder)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from kdcore.engine.plugin_files import naming_plugin_files
    from kdcore.search.base import load_base
    from kdcore.search.folder import SearchFolder
    from kdcore.search.results import result_lines

    folder = SearchFolder.existing(arguments.show)
    with naming_plugin_files(arguments.show, arguments.plugins, "search"):
        base = load_base(folder.config, (), arguments.plugins, own=True, output_dir=None)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(result_lines(folder, base, width)).strip("\n"))
    return 0
