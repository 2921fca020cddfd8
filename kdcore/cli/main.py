"""`kd`: reads the command line, runs one command and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from kdcore import __version__
from kdcore.cli import cache, export, plugins, report, run, schema, search, validate
from kdcore.errors import EndedElsewhereError, KdcoreError, suggestion
from kdcore.launcher import process_rank

COMMANDS = {
    "run": run,
    "search": search,
    "cache": cache,
    "validate": validate,
    "plugins": plugins,
    "schema": schema,
    "report": report,
    "export": export,
}

TRACEBACK_VARIABLE = "KDCORE_TRACEBACK"

# Longer than a run takes to write its results; a launcher does not let it come to that.
LAST_WORD_S = 30

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

EPILOG = """examples:
  kd validate kd.yaml                  check a config; every mistake in one go
  kd validate kd.yaml --dry-run        and push one batch through every stage
  kd run kd.yaml --set seed=1          train
  kd search search.yaml                try students of a space, keep the Pareto front
  kd plugins                           what is installed
  kd plugins show at                   one method: its inputs, its params, an example
  kd schema -o kd.schema.json          completion and checks in an editor

exit codes: 0 success, 1 an error you can repair, 2 wrong usage, 130 interrupted (143 by SIGTERM)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kd` with `argv` (by default the process's own arguments) and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parse(words)
        code: int = arguments.execute(arguments)
        sys.stdout.flush()
    except SystemExit as exit_:
        # argparse has said what was wrong, or printed the help that was asked for.
        return exit_.code if isinstance(exit_.code, int) else USAGE
    except EndedElsewhereError:
        # A launcher ends all processes when one has ended; the one that says why must not be among the ended.
        time.sleep(LAST_WORD_S)
        return FAILED
    except KdcoreError as error:
        if "--traceback" in words or os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"kd: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as signal:
        # A run says what it has saved, and which signal ended it.
        advice = getattr(signal, "advice", "")
        if process_rank() == 0:
            print("kd: interrupted" + (f": {advice}" if advice else ""), file=sys.stderr)
        return 128 + getattr(signal, "number", INTERRUPTED - 128)
    except BrokenPipeError:
        # Who read our output has left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="kd",
        description="Knowledge distillation in PyTorch: a small core, every method a plugin.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kd {__version__}")
    # Also accepted after the command, where people add it once something has failed.
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--traceback", action="store_true", help=f"show where an error was raised (or set {TRACEBACK_VARIABLE}=1)"
    )
    parser.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            parents=[shared],
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(execute=module.execute, usage_error=command.error)
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser()
    command = next((word for word in argv if not word.startswith("-")), None)
    if command is None and not {"-h", "--help", "--version"} & set(argv):
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    if command is not None and command not in COMMANDS:
        parser.error(f"unknown command {command!r}; {suggestion(command, COMMANDS, noun='commands')}")
    return parser.parse_args(argv)
