"""`kd run`: train what a config describes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kdcore.advice import Command
from kdcore.cli.arguments import add_config_arguments, config_of, registry_of
from kdcore.errors import EndedElsewhereError, KdcoreError, RunError
from kdcore.launcher import is_first_here, process_rank

if TYPE_CHECKING:
    from kdcore.config.config import Config
    from kdcore.plugins import Registry

HELP = "train what a config describes"
DESCRIPTION = "Check a config, run its stages and write a run folder with weights, metrics and a report."
EPILOG = """examples:
  kd run kd.yaml
  kd run kd.yaml --set seed=1 --set stages.distill.epochs=5
  kd run kd.yaml --plugin ./mine.py --output-dir /data/runs
  kd run --resume runs/kd/20260131-180000    go on with a run that was interrupted
  folder=$(kd run kd.yaml --quiet)     for scripts: prints the run folder and nothing else
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, by its own config unless CONFIG is given"
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="with --resume: go on although config, versions, data or weights files are not what they were",
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="the folder that receives NAME/STAMP/, instead of the config's"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress; print the run folder and nothing else")


def execute(arguments: argparse.Namespace) -> int:
    """Run the config."""
    if arguments.output_dir is not None:
        # JSON text is YAML text that stays text, whatever the folder is called.
        arguments.overrides.append(f"output_dir={json.dumps(arguments.output_dir)}")
    if arguments.resume is not None and arguments.config is None:
        arguments.config = config_file(Path(arguments.resume))
    if arguments.config is None:
        arguments.usage_error("give a CONFIG, or --resume RUN")
    if arguments.accept_changes and arguments.resume is None:
        arguments.usage_error("--accept-changes belongs to --resume RUN")
    try:
        registry = registry_of(arguments)
        config = _config(arguments, registry)
    except KdcoreError as error:
        if is_first_here():
            raise
        # The first process of this machine has met it too, and says so.
        raise EndedElsewhereError(process_rank()) from error
    # Only now: a mistake in the config is reported without the seconds that torch takes.
    from kdcore.engine.run import run

    folder = run(
        config,
        registry=registry,
        quiet=arguments.quiet,
        resume=arguments.resume,
        accept_changes=arguments.accept_changes,
        advice=Command("run", arguments.plugins),
    )
    if arguments.quiet and process_rank() == 0:
        print(folder)
    return 0


def _config(arguments: argparse.Namespace, registry: Registry) -> Config:
    from kdcore.engine.plugin_files import naming_plugin_files

    with naming_plugin_files(arguments.resume, arguments.plugins, "run"):
        return config_of(arguments, registry)


def config_file(run: Path) -> str:
    """Return the config that a run folder holds; raises RunError if it is none."""
    file = run / "config.yaml"
    if file.is_file():
        return str(file)
    if not run.is_dir():
        raise RunError(f"there is no run folder {str(run)!r}", repair="kd run prints the folder when it starts")
    inner = sorted(each.name for each in run.iterdir() if (each / "config.yaml").is_file())
    if inner:
        raise RunError(
            f"{str(run)!r} is not a run folder, but holds some: {', '.join(inner[-5:])}",
            repair=f"the latest is {run / inner[-1]}",
        )
    raise RunError(
        f"{str(run)!r} holds no config.yaml: it is no run folder, or the run ended before it began",
        repair="give the folder that kd run printed, or start the run anew",
    )
