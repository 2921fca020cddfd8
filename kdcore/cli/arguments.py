"""Arguments that several commands take, and how they are applied."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdcore.config.config import Config
    from kdcore.plugins import Registry


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add CONFIG, --set and --plugin."""
    parser.add_argument("config", metavar="CONFIG", nargs=None if required else "?", help="a YAML file")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="replace one value of the config, for example stages.distill.epochs=5; may be repeated",
    )
    add_plugin_argument(parser)


def add_plugin_argument(parser: argparse.ArgumentParser) -> None:
    """Add --plugin."""
    parser.add_argument(
        "--plugin",
        dest="plugins",
        action="append",
        default=[],
        metavar="FILE.py",
        help="a Python file that offers components; may be repeated",
    )


def registry_of(arguments: argparse.Namespace) -> Registry:
    """Return the registry of all installed plugins and of the plugin files named on the command line."""
    from kdcore.plugins import registry

    found = registry()
    for file in arguments.plugins:
        found.load_file(file)
    return found


def config_of(arguments: argparse.Namespace, registry: Registry) -> Config:
    """Read and check the config, its overrides applied."""
    from kdcore.config.load import load_config

    return load_config(arguments.config, overrides=arguments.overrides, plugins=registry)
