"""The run folder: what a run leaves behind, each file written so that a crash cannot spoil it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kdcore.config.config import Config
from kdcore.errors import RunError


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, config: Config) -> RunFolder:
        """Make `<output_dir>/<name>/<stamp>`; two runs never get the same folder."""
        parent = Path(config.output_dir) / config.name
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for attempt in range(1000):
            path = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if not path.is_dir():
                    break
                continue
            except OSError as error:
                raise RunError(
                    f"the run folder {str(path)!r} cannot be made: {error.strerror}",
                    place=config.place("output_dir"),
                    repair="choose another output_dir",
                ) from error
            return cls(path)
        raise RunError(f"no free folder in {str(parent)!r}", repair="choose another output_dir or name")

    @property
    def checkpoints(self) -> Path:
        """Where weights and training state are kept."""
        return self.path / "checkpoints"

    def weights(self, stage: str, name: str) -> Path:
        """The weights of a model or adapter at the end of a stage (or `initial`)."""
        return self.checkpoints / stage / f"{name}.safetensors"

    def final(self, model: str) -> Path:
        """The final weights of a model."""
        return self.path / f"{model}.safetensors"

    def write_config(self, resolved: Mapping[str, Any]) -> None:
        """Save the config with every default written out."""
        text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", text)

    def write_json(self, name: str, data: Any) -> None:
        """Save one JSON file."""
        write_atomically(self.path / name, json.dumps(_plain(data), indent=2, ensure_ascii=False) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(record), ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _plain(data: Any) -> Any:
    """Return JSON-safe data: numbers that JSON lacks become null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return data
