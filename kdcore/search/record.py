"""What a search keeps of each trial, a line of results.jsonl each."""

from __future__ import annotations

import enum
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdcore.errors import RunError


class State(enum.StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "failed"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Trial:
    """One trial that has ended.

    Arguments:
        number: counted from 0, in the order in which trials were started.
        point: what was tried, by config path; parameters that were not active are not in it.
        state: complete, stopped early, failed, or infeasible: not trained, because a constraint was broken already.
        metrics: what was measured; of a failed trial what there was before it failed.
        reason: why it was stopped or has failed.
        seconds: how long it took.
        folder: where its run lies, relative to the search's folder.
        epochs: how many epochs of the trial were trained, if that was counted.
        started: when it began, seconds since 1970.
    """

    number: int
    point: Mapping[str, Any]
    state: State
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float | None = None
    folder: str | None = None
    epochs: int | None = None
    started: float | None = None

    def to_line(self) -> str:
        """Return the trial as one line of JSON; a metric that is not finite becomes null."""
        data = asdict(self)
        data["metrics"] = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return json.dumps(data, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Trial:
        """Read `to_line` back; raises ValueError for anything else."""
        data = json.loads(line)
        if not isinstance(data, dict) or not isinstance(data.get("number"), int):
            raise ValueError("a trial is an object with a number")
        if not isinstance(data.get("point"), dict) or not isinstance(data.get("metrics", {}), dict):
            raise ValueError("point and metrics of a trial are objects")
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        known["state"] = State(str(data.get("state")))
        known["metrics"] = {
            name: math.nan if value is None else float(value) for name, value in data.get("metrics", {}).items()
        }
        return cls(**known)


def append_trial(file: Path, trial: Trial) -> None:
    """Add a line, written through to the disk; what a killed process left of a line is taken away first."""
    with file.open("a+b") as stream:
        _drop_torn_line(stream)
        stream.write(trial.to_line().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_trials(file: Path) -> list[Trial]:
    """Return the trials of a file by their number, without a last line that was never finished.

    Of several lines with one number the last counts. Raises RunError for a line that is no trial.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    trials: dict[int, Trial] = {}
    # What follows the last line break is empty, or torn.
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            trial = Trial.from_line(line.decode())
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{file}:{number}: this line is not a trial: {error}",
                repair="take the line out; its trial is run again when the search is resumed",
            ) from None
        trials[trial.number] = trial
    return [trials[number] for number in sorted(trials)]


def _drop_torn_line(stream: Any) -> None:
    end = stream.seek(0, os.SEEK_END)
    position = end
    while position:
        start = max(0, position - 4096)
        stream.seek(start)
        found = stream.read(position - start).rfind(b"\n")
        if found >= 0:
            position = start + found + 1
            break
        position = start
    if position < end:
        stream.truncate(position)
