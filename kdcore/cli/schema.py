"""`kd schema`: one JSON Schema of everything installed."""

from __future__ import annotations

import argparse

from kdcore.cli.arguments import add_plugin_argument, registry_of
from kdcore.errors import KdcoreError

HELP = "print one JSON Schema of everything installed, for editors"
DESCRIPTION = """Print one JSON Schema (2020-12) of configs as this installation understands them: the core's keys
and the params of every installed component. Editors use it for completion and checks."""
EPILOG = """example:
  kd schema -o kd.schema.json
and as the first line of a config:
  # yaml-language-server: $schema=kd.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file instead of standard output")
    add_plugin_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print or write the schema."""
    import json
    from pathlib import Path

    from kdcore.cli.merged_schema import merged_schema

    text = json.dumps(merged_schema(registry_of(arguments)), indent=2, ensure_ascii=False) + "\n"
    if arguments.output is None:
        print(text, end="")
        return 0
    try:
        Path(arguments.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise KdcoreError(
            f"cannot write {arguments.output!r}: {error.strerror}", repair="name a file in a folder that exists"
        ) from error
    return 0
