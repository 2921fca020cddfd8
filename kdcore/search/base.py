"""What a search starts from: a config with a section `search:`, or that section alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdcore.config.checker import Checker
from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.config.reader import read_config, read_text
from kdcore.config.schemas import load_schema
from kdcore.config.search import check_search
from kdcore.config.search_config import SearchConfig
from kdcore.config.source import Source
from kdcore.config.validation import validate, with_defaults
from kdcore.errors import ConfigError, RunError
from kdcore.plugins import Registry, registry
from kdcore.search.trial_config import base_text

SECTION = "search"
_FILE = "<search>"


@dataclass(frozen=True)
class Base:
    """Where a search starts; `config` is None where there is only its section.

    Arguments:
        name, output_dir, seed: of the config.
        text: the config as it was given, to be saved.
        identity: what trials depend on, every default written out.
    """

    config: Config | None
    search: SearchConfig
    name: str
    output_dir: str
    seed: int
    text: str
    identity: Mapping[str, Any]
    registry: Registry


def load_base(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str],
    plugins: Sequence[str],
    *,
    own: bool,
    output_dir: str | Path | None,
) -> Base:
    """Read and check what a search starts from.

    Arguments:
        config: a file, YAML text, a mapping or a checked Config.
        overrides: assignments as --set takes them.
        plugins: plugin files.
        own: whether the user's own function trains, so that the section is enough.
        output_dir: stands for that of the config.

    Raises:
        ConfigError: with every problem.
        RunError: the config has no section `search:`.
    """
    found = registry() if not plugins else Registry.discover()
    for file in plugins:
        found.load_file(file)
    if output_dir is not None:
        # Where there is only the section, that has no such key.
        overrides = [*overrides, f"output_dir={json.dumps(str(output_dir))}"]
    if isinstance(config, Config):
        source = config.source
        text = base_text(source)
        source = read_text(text, source.file)
    else:
        source = _source(config)
    if own and "stages" not in source.data:
        return _of_section(source, overrides, found)
    checked = load_config(source, overrides=overrides, plugins=found)
    if checked.search is None:
        raise RunError(
            f"{source.file} has no section search:",
            repair="write search: {space: {path: [values]}, objectives: [{metric: ..., goal: ...}]}",
        )
    return Base(
        checked,
        checked.search,
        checked.name,
        checked.output_dir,
        checked.seed,
        base_text(checked.source),
        checked.resolved,
        found,
    )


def _source(config: str | Path | Mapping[str, Any]) -> Source:
    if isinstance(config, Mapping):
        data = copy.deepcopy(dict(config))
        return read_text(yaml.safe_dump(data if SECTION in data else {SECTION: data}, sort_keys=False), _FILE)
    if isinstance(config, str) and "\n" in config:
        return read_text(config, _FILE)
    return read_config(config)


def _of_section(source: Source, overrides: Sequence[str], plugins: Registry) -> Base:
    """Check a section that stands alone: its paths are names, and its metrics whatever the function returns."""
    from kdcore.config.overrides import apply_overrides

    source = apply_overrides(source, overrides)
    schema = load_schema("config")
    kept = ("name", "output_dir", "seed", SECTION)
    alone = {
        "type": "object",
        "additionalProperties": False,
        "required": [SECTION],
        "properties": {key: schema["properties"][key] for key in kept},
        "$defs": schema["$defs"],
    }
    data = copy.deepcopy(source.data)
    problems = validate(data, alone, source=source)
    data = with_defaults(data, alone)
    checker = Checker(source, plugins, ())
    search = check_search(checker, data, None)
    problems += checker.problems
    if problems or search is None:
        raise ConfigError(dict.fromkeys(problems))
    for key in ("trial", "final", "stop_early"):
        if source.data[SECTION].get(key):
            raise RunError(
                f"search: {key} has no meaning where your own function trains",
                place=source.place((SECTION, key)),
                repair="take it out; the function gets the point and may do as it likes",
            )
    return Base(None, search, data["name"], data["output_dir"], data["seed"], base_text(source), data, plugins)
