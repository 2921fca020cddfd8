"""The run folder: what a run leaves behind, each file written so that a crash cannot spoil it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kdcore.config.config import Config
from kdcore.engine.disk import disk_errors, flush
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

    def result(self, stage: str) -> Path:
        """What a stage has come to; it is there once the stage is complete."""
        return self.checkpoints / stage / "result.json"

    def final(self, model: str) -> Path:
        """The final weights of a model."""
        return self.path / f"{model}.safetensors"

    def write_config(self, resolved: Mapping[str, Any]) -> None:
        """Save the config with every default written out."""
        text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True)
        # What is resolved is not resolved once more when the file is read again.
        write_atomically(self.path / "config.yaml", text.replace("${", "$${"))

    def description(self) -> dict[str, str]:
        """Return the files that say what the run is, as far as they can be read."""
        found = {}
        for name in ("identity.json", "environment.json", "config.yaml"):
            with contextlib.suppress(OSError, ValueError):
                found[name] = (self.path / name).read_text(encoding="utf-8")
        return found

    def describe_again(self, files: Mapping[str, str]) -> None:
        """Put back what `description` has returned."""
        for name, text in files.items():
            write_atomically(self.path / name, text)

    def write_json(self, name: str, data: Any) -> None:
        """Save one JSON file."""
        write_atomically(self.path / name, json.dumps(_plain(data), indent=2, ensure_ascii=False) + "\n")

    def seconds(self) -> float:
        """Return how long the run took until it was interrupted, as far as it could say."""
        try:
            return float(json.loads((self.path / "results.json").read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, TypeError, LookupError):
            return 0.0

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, or none of it where there is no room."""
        file, size = self.path / "metrics.jsonl", self.metrics_bytes()
        line = json.dumps(_plain(record), ensure_ascii=False) + "\n"
        with disk_errors(file):
            try:
                with file.open("a", encoding="utf-8") as stream:
                    stream.write(line)
                flush(file)
            except OSError:
                if self.metrics_bytes() > size:
                    os.truncate(file, size)
                raise

    def metrics_bytes(self) -> int:
        """Return the length of metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        return file.stat().st_size if file.exists() else 0

    def forget_epochs(self, stage: str, epoch: int) -> None:
        """Forget the lines about epochs of a stage that come again, `epoch` the first, and half a line at the end."""
        self._keep_lines(lambda line: line is not None and (line["stage"] != stage or line["epoch"] < epoch))

    def forget(self, stages: Iterable[str]) -> None:
        """Remove checkpoints and metrics of stages, which start from their beginning."""
        names = set(stages)
        for name in names:
            shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        if names:
            self._keep_lines(lambda line: line is None or line["stage"] not in names)

    def put_in_order(self) -> None:
        """Bring the lines of metrics.jsonl into the order of stages, as after a stage that was trained again alone."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            whole = [(line, found) for line in lines if (found := _parsed(line)) is not None]
            ordered = [line for line, _ in sorted(whole, key=lambda each: int(each[1].get("stage_index", 0)))]
            if ordered != lines:
                write_atomically(file, "".join(ordered))

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed had half written."""
        for pattern in (".*.part", ".*.old"):
            for path in self.path.rglob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with disk_errors(path):
                        path.unlink(missing_ok=True)

    def _keep_lines(self, wanted: Callable[[dict[str, Any] | None], bool]) -> None:
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if wanted(_parsed(line))]
        if len(kept) < len(lines):
            write_atomically(file, "".join(kept))


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it, after a power cut too.

    Raises:
        RunError: it could not be written; the old content is still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            flush(partial)
            partial.replace(path)
            flush(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _parsed(line: str) -> dict[str, Any] | None:
    """Return a line of metrics.jsonl; None if it is half a line."""
    try:
        found = json.loads(line)
        return {**found, "stage": str(found["stage"]), "epoch": int(found["epoch"])}
    except (ValueError, TypeError, LookupError):
        return None


def _plain(data: Any) -> Any:
    """Return JSON-safe data: numbers that JSON lacks become null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return data
