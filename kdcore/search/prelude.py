"""Stages that no parameter of the space reaches: trained once, and every trial begins after them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdcore.config.config import Config
from kdcore.config.overrides import resolved_path
from kdcore.engine.folder import RunFolder, write_atomically
from kdcore.search.trial_config import used_names

METRICS = "metrics.jsonl"
_WHOLE_RUN = ("seed", "device", "distributed")


def common_stages(config: Config, paths: Iterable[str]) -> int:
    """Return how many stages at the beginning are the same for every point, not counting the last stage.

    `config` is that of some trial, `paths` are those of the space.
    """
    reached = [resolved_path(config.source.data, path) for path in paths]
    count = 0
    for stages in range(1, len(config.stages)):
        if any(_reaches(path, config, stages) for path in reached):
            break
        count = stages
    return count


def _reaches(path: tuple[str | int, ...], config: Config, stages: int) -> bool:
    """Whether a value at `path` may change what the first stages come to."""
    section, name = path[0], path[1] if len(path) > 1 else None
    if section in ("models", "adapters"):
        return name is None or name in used_names(config, stages)
    if section == "data":
        return name is None or name in {each for stage in config.stages[:stages] for each in stage.data.values()}
    if section == "stages":
        return not isinstance(name, int) or name < stages
    return section not in ("name", "description", "output_dir", "checkpoints")


def prelude_key(config: Config, stages: int) -> str:
    """Return a text that two configs share if their first stages come to the same."""
    resolved, names = config.resolved, used_names(config, stages)
    data = {each for stage in config.stages[:stages] for each in stage.data.values()}
    parts: dict[str, Any] = {key: resolved.get(key) for key in _WHOLE_RUN}
    parts["stages"] = resolved["stages"][:stages]
    for section, kept in (("models", names), ("adapters", names), ("data", data)):
        parts[section] = {name: node for name, node in resolved.get(section, {}).items() if name in kept}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def begin_after(prelude: Path, config: Config, stages: int, folder: Path) -> None:
    """Give a run that has not begun the first stages as `prelude` has trained them.

    Stages that are there already are left as they are.
    """
    source, target = RunFolder(prelude), RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not target.metrics_bytes():
        write_atomically(folder / METRICS, (prelude / METRICS).read_text(encoding="utf-8"))
    for stage in config.stages[:stages]:
        if target.result(stage.name).exists():
            continue
        target.result(stage.name).parent.mkdir(parents=True, exist_ok=True)
        for name in stage.train:
            _share(source.weights(stage.name, name), target.weights(stage.name, name))
            if name in config.models:
                _share(source.final(name), target.final(name))
        # Last: with it the stage is complete.
        _share(source.result(stage.name), target.result(stage.name))


def _share(file: Path, target: Path) -> None:
    """Make `target` the same file where the disk allows it, else a copy; neither is ever changed in place."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    try:
        os.link(file, partial)
    except OSError:
        shutil.copyfile(file, partial)
    partial.replace(target)
