"""`kd run`: train what a config describes."""

from __future__ import annotations

import argparse
import json

from kdcore.cli.arguments import add_config_arguments, config_of, registry_of

HELP = "train what a config describes"
DESCRIPTION = "Check a config, run its stages and write a run folder with weights, metrics and a report."
EPILOG = """examples:
  kd run kd.yaml
  kd run kd.yaml --set seed=1 --set stages.distill.epochs=5
  kd run kd.yaml --plugin ./mine.py --output-dir /data/runs
  folder=$(kd run kd.yaml --quiet)     for scripts: prints the run folder and nothing else
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    parser.add_argument(
        "--output-dir", metavar="DIR", help="the folder that receives NAME/STAMP/, instead of the config's"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress; print the run folder and nothing else")


def execute(arguments: argparse.Namespace) -> int:
    """Run the config."""
    if arguments.output_dir is not None:
        # JSON text is YAML text that stays text, whatever the folder is called.
        arguments.overrides.append(f"output_dir={json.dumps(arguments.output_dir)}")
    registry = registry_of(arguments)
    config = config_of(arguments, registry)
    # Only now: a mistake in the config is reported without the seconds that torch takes.
    from kdcore.engine.run import run

    folder = run(config, registry=registry, quiet=arguments.quiet)
    if arguments.quiet:
        print(folder)
    return 0
