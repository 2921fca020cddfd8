"""What a run folder says, read so that damage costs only what is damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdcore.engine.row import Row, number, parse_rows
from kdcore.errors import RunError

FILES = {
    "config.yaml": "the config cannot be shown",
    "environment.json": "versions and hardware are unknown",
    "metrics.jsonl": "there are no curves",
    "results.json": "the run was interrupted, or is still going",
}

Points = list[tuple[int, float | None]]


@dataclass
class Stage:
    """One stage: what was planned, what became of it, and its curves by full metric name.

    Epochs are counted from 1 here, as people do; in the files they are counted from 0.
    """

    name: str
    title: str
    epochs: int = 0
    best_epoch: int | None = None
    selected_by: str | None = None
    terms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lines: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def last_epoch(self) -> int:
        """The last epoch that left a line."""
        return max(self.lines, default=0)

    @property
    def seconds(self) -> float:
        """Seconds spent in all epochs together."""
        return sum(number(line.get("seconds")) or 0.0 for line in self.lines.values())

    def curves(self) -> dict[str, Points]:
        """Return every metric's value by epoch; None where it was not finite."""
        found: dict[str, Points] = {}
        for epoch, line in sorted(self.lines.items()):
            for name, value in _mapping(line.get("metrics")).items():
                found.setdefault(str(name), []).append((epoch, number(value)))
        return found

    def learning_rates(self) -> list[Points]:
        """Return the learning rate by epoch, one curve for each distinct parameter group."""
        rates = {epoch: line["lr"] for epoch, line in sorted(self.lines.items()) if isinstance(line.get("lr"), list)}
        groups = max((len(rate) for rate in rates.values()), default=0)
        curves = [
            [(epoch, number(rate[group]) if group < len(rate) else None) for epoch, rate in rates.items()]
            for group in range(groups)
        ]
        return [curve for place, curve in enumerate(curves) if curve not in curves[:place]]


@dataclass
class Record:
    """Everything a report needs from a run folder, and what was wrong with the folder."""

    folder: Path
    config_text: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    status: str = "unfinished"
    seconds: float | None = None
    stages: list[Stage] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name, or that of its folder."""
        return str(self.config.get("name") or self.folder.resolve().name)

    @property
    def seed(self) -> Any:
        """The seed as the config gives it; None if it gives none."""
        return self.config.get("seed")

    def stage_config(self, name: str) -> Mapping[str, Any]:
        """Return what the config says about the stage `name`."""
        stages = self.config.get("stages")
        found = [each for each in stages if isinstance(each, Mapping)] if isinstance(stages, list) else []
        return next((each for each in found if each.get("name") == name), {})


def read_record(folder: Path) -> Record:
    """Read a run folder; raises RunError if it is none."""
    if not any((folder / name).is_file() for name in FILES):
        found = "an empty or foreign folder" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise RunError(
            f"{folder} is not a run folder: found {found}, none of {', '.join(FILES)}",
            repair="give the folder that `kd run` printed, such as runs/<name>/<stamp>",
        )
    record = Record(folder)
    record.config_text = _text(record, "config.yaml")
    record.config = _config(record)
    record.environment = _json(record, "environment.json")
    stages = _read_lines(record)
    planned = _read_results(record, stages)
    record.stages = [stages[name] for name in dict.fromkeys([*planned, *stages])]
    return record


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(record: Record, name: str) -> str:
    try:
        return (record.folder / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        record.warnings.append(f"{name} is missing: {FILES[name]}")
        return ""
    except OSError as error:
        record.warnings.append(f"{name} could not be read: {error.strerror or error}")
        return ""


def _config(record: Record) -> Mapping[str, Any]:
    try:
        return _mapping(yaml.safe_load(record.config_text))
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: an impossible date
        record.warnings.append("config.yaml is damaged: it is shown as text, but not understood")
        return {}


def _json(record: Record, name: str) -> Mapping[str, Any]:
    text = _text(record, name)
    if not text:
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        record.warnings.append(f"{name} is damaged and was left out")
        return {}
    if not isinstance(data, Mapping):
        record.warnings.append(f"{name} holds {type(data).__name__} where an object belongs; it was left out")
        return {}
    return data


def _read_lines(record: Record) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    bad = []
    for position, text in enumerate(_text(record, "metrics.jsonl").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            name, epoch = str(line["stage"]), int(line["epoch"]) + 1
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            bad.append(str(position))
            continue
        stage = stages.setdefault(name, Stage(name, name))
        stage.epochs = int(number(line.get("epochs")) or 0)
        stage.lines[epoch] = line  # a resumed run repeats epochs; the later line is the one that counts
    if bad:
        shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        record.warnings.append(f"metrics.jsonl: line {shown} could not be read and was left out")
    return stages


def _read_results(record: Record, stages: dict[str, Stage]) -> list[str]:
    """Read results.json into the record and its stages; returns the stages' names in their order."""
    results = _json(record, "results.json")
    record.status = str(results.get("status") or "unfinished")
    record.seconds = number(results.get("seconds"))
    entries, rows, told = (results.get(key) for key in ("stages", "rows", "warnings"))
    planned = [each for each in entries if _mapping(each).get("name")] if isinstance(entries, list) else []
    for entry in planned:
        name = str(entry["name"])
        stage = stages.setdefault(name, Stage(name, name))
        stage.title = str(entry.get("title") or name)
        stage.epochs = int(number(entry.get("epochs")) or stage.epochs)
        best = number(entry.get("best_epoch"))
        stage.best_epoch = None if best is None else int(best) + 1
        stage.selected_by = str(entry["selected_by"]) if entry.get("selected_by") else None
        stage.terms = {str(term): _mapping(told) for term, told in _mapping(entry.get("losses")).items()}
    record.rows = parse_rows([row for row in rows if isinstance(row, Mapping)]) if isinstance(rows, list) else []
    record.warnings += [str(text) for text in told] if isinstance(told, list) else []
    return [str(entry["name"]) for entry in planned]
