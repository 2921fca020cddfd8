"""`kd export`: a smaller model from a run that pruned."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdcore.cli.arguments import add_plugin_argument, config_of, registry_of
from kdcore.cli.run import config_file

HELP = "write a smaller model from a run that pruned"
DESCRIPTION = """Read the trained model of a run folder and write what its zeros allow. --compact removes channels,
neurons and attention heads that have no effect, checks on real batches that the outputs are the same, and prints
what was gained. --semi-structured names the layers that are 2:4 and converts them where the device can. Nothing is
written where the outputs would differ or nothing can be removed."""
EPILOG = """examples:
  kd export runs/digits-channels/20260131-180000 --compact -o students/small
  kd export runs/digits-channels/20260131-180000 --compact --model student --stage distill
  kd export runs/digits-2to4/20260131-180000 --semi-structured
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a folder that kd run wrote")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--compact", action="store_true", help="remove channels, neurons and heads without effect")
    form.add_argument("--semi-structured", action="store_true", help="2:4 layers as torch's semi-structured tensors")
    parser.add_argument("--model", metavar="NAME", help="which model: by default student, or the only one trained")
    parser.add_argument("--stage", metavar="NAME", help="its weights after this stage: by default the final ones")
    parser.add_argument("-o", "--output", metavar="DIR", help="a new folder: by default RUN/<model>-compact or -2to4")
    add_plugin_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Export the model."""
    run = Path(arguments.run)
    arguments.config, arguments.overrides = config_file(run), []
    config = config_of(arguments, registry_of(arguments))
    # Only now: a mistake is reported without the seconds that torch takes.
    from kdcore.cli.tables import console
    from kdcore.compaction.export import export_compact, export_semi_structured

    export = export_compact if arguments.compact else export_semi_structured
    output = Path(arguments.output) if arguments.output else None
    export(run, config, arguments.model, arguments.stage, output, console())
    return 0
