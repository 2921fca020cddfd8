"""The config of one run of a search: the base, overrides, and the values of a point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.config.reader import read_config
from kdcore.config.source import Source
from kdcore.config.trial import without_search
from kdcore.plugins import Registry


def base_text(source: Source) -> str:
    """Return the text of a config as it was given, its overrides applied and its variables put in."""
    # What is put in already is not put in once more when the file is read again.
    return yaml.safe_dump(source.data, sort_keys=False, allow_unicode=True).replace("${", "$${")


def load_trial(file: Path, overrides: Sequence[str], registry: Registry, stages: int | None = None) -> Config:
    """Return the config of one run: the base in `file` with `overrides`, or of its first `stages` stages only."""
    config = load_config(without_search(read_config(file)), overrides=overrides, plugins=registry)
    return config if stages is None else load_config(_beginning(config, stages), plugins=registry)


def _beginning(config: Config, stages: int) -> Source:
    """Return the config with its first stages, and of models and adapters only what these use."""
    names = used_names(config, stages)
    data = dict(config.source.data)
    data["stages"] = data["stages"][:stages]
    for section in ("models", "adapters"):
        if section in data:
            data[section] = {name: node for name, node in (data[section] or {}).items() if name in names}
    return replace(config.source, data=_literal(data))


def _literal(node: Any) -> Any:
    """Return data that variables are put into once more without a change."""
    if isinstance(node, dict):
        return {key: _literal(item) for key, item in node.items()}
    if isinstance(node, list):
        return [_literal(item) for item in node]
    return node.replace("${", "$${") if isinstance(node, str) else node


def used_names(config: Config, stages: int) -> set[str]:
    """Return the models and adapters that the first stages have anything to do with."""
    found: set[str] = set()
    for stage in config.stages[:stages]:
        found |= {*stage.train, *stage.metrics.models, *stage.start, *(start.model for start in stage.start.values())}
        found |= {address.name for term in stage.terms for address in term.addresses}
    return _fed_by(config, found)


def _fed_by(config: Config, names: Iterable[str]) -> set[str]:
    """Add what feeds models and adapters, and what feeds that."""
    found, ahead = set[str](), list(names)
    while ahead:
        name = ahead.pop()
        part = config.models.get(name) or config.adapters.get(name)
        if part is None or name in found:
            continue
        found.add(name)
        ahead += [address.name for address in part.addresses]
        like = getattr(part, "like", None)
        ahead += [like.name] if like is not None else []
    return found
