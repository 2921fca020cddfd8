"""`kd validate`: check a config."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from kdcore.cli.arguments import add_config_arguments, config_of, registry_of
from kdcore.errors import ConfigError, KdcoreError, Problem

if TYPE_CHECKING:
    from kdcore.config.config import Config

HELP = "check a config"
DESCRIPTION = """Check a config against the schemas of the core and of the plugins, and report every mistake at once.
Nothing is built and torch is not imported, unless --dry-run asks for it."""
EPILOG = """examples:
  kd validate kd.yaml
  kd validate kd.yaml --set models.student.params.width=16
  kd validate kd.yaml --dry-run        build every stage, push one batch through it, change nothing
  kd validate kd.yaml --json           for other programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="also push one batch through every stage")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Check the config; the exit code is 1 if something is wrong."""
    if not arguments.json:
        config = _checked(arguments)
        print(f"{arguments.config}: valid ({_contents(config)})")
        return 0
    try:
        config = _checked(arguments)
    except KdcoreError as error:
        problems = error.problems if isinstance(error, ConfigError) else (error.problem,)
        print(
            json.dumps({"config": arguments.config, "valid": False, "problems": [_as_data(each) for each in problems]})
        )
        return 1
    print(json.dumps({"config": arguments.config, "valid": True, "problems": []}))
    return 0


def _checked(arguments: argparse.Namespace) -> Config:
    config = config_of(arguments, registry_of(arguments))
    if arguments.dry_run:
        from rich.console import Console

        from kdcore.engine.dry_run import dry_run

        # Standard output is for the JSON alone.
        dry_run(config, console=Console(stderr=arguments.json))
    return config


def _contents(config: Config) -> str:
    terms = sum(len(stage.terms) for stage in config.stages)
    counts = [
        (len(config.stages), "stage", "stages"),
        (len(config.models), "model", "models"),
        (len(config.adapters), "adapter", "adapters"),
        (terms, "loss", "losses"),
    ]
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)


def _as_data(problem: Problem) -> dict[str, Any]:
    place = problem.place
    return {
        "what": problem.what,
        "repair": problem.repair,
        "path": place.path,
        "file": place.file,
        "line": place.line,
        "column": place.column,
    }
