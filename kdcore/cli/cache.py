"""`kd cache`: fill the caches of a config beforehand."""

from __future__ import annotations

import argparse

from kdcore.cli.arguments import add_config_arguments, config_of, registry_of

HELP = "store what frozen models yield, before a run"
DESCRIPTION = """Run the models that have `cache:` over the data of every stage in which they are frozen, and store
what the stages read off them. A run then reads it from the start; without this command it fills its caches in its
first epoch. What is there already is checked and kept."""
EPILOG = """examples:
  kd cache kd.yaml
  kd cache kd.yaml --set 'models.teacher.cache={dtype: int8}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Fill the caches."""
    config = config_of(arguments, registry_of(arguments))
    # Only now: a mistake in the config is reported without the seconds that torch takes.
    from rich.console import Console

    from kdcore.engine.cache.fill import fill_caches
    from kdcore.engine.interrupt import Interrupt, Interrupted

    try:
        with Interrupt():
            fill_caches(config, console=Console())
    except Interrupted as signal:
        signal.advice = "what was stored stays; the same command, or a run, fills in the rest"
        raise
    return 0
