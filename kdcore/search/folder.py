"""The folder of a search: what it leaves behind, each file written so that a crash cannot spoil it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcore.engine.folder import write_atomically
from kdcore.errors import Place, RunError
from kdcore.search.job import OUTCOME, Outcome
from kdcore.search.record import State, Trial, append_trial, read_trials

PREFIX = "search-"


class SearchFolder:
    """Paths and files of one search."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, output_dir: str, name: str, place: Place = Place()) -> SearchFolder:
        """Make `<output_dir>/<name>/search-<stamp>`; two searches never get the same folder."""
        parent = Path(output_dir) / name
        stamp = PREFIX + time.strftime("%Y%m%d-%H%M%S")
        for attempt in range(1000):
            path = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise RunError(
                    f"the folder {str(path)!r} cannot be made: {error.strerror}",
                    place=place,
                    repair="choose another output_dir",
                ) from error
            return cls(path)
        raise RunError(f"no free folder in {str(parent)!r}", repair="choose another output_dir or name")

    @classmethod
    def existing(cls, path: str | Path) -> SearchFolder:
        """Return the folder of a search there was; raises RunError if it is none."""
        folder = cls(Path(path))
        if folder.config.is_file() and folder.state.is_file():
            return folder
        if not folder.path.is_dir():
            raise RunError(f"there is no folder {str(path)!r}", repair="kd search prints the folder when it starts")
        inner = sorted(each.name for each in folder.path.glob(f"{PREFIX}*") if (each / "state.json").is_file())
        raise RunError(
            f"{str(path)!r} is not the folder of a search",
            repair=f"the latest in it is {folder.path / inner[-1]}"
            if inner
            else "give the folder that kd search printed",
        )

    @property
    def config(self) -> Path:
        """The config, with overrides applied."""
        return self.path / "config.yaml"

    @property
    def state(self) -> Path:
        """What the search needs to go on."""
        return self.path / "state.json"

    @property
    def results(self) -> Path:
        """A line for each trial that has ended."""
        return self.path / "results.jsonl"

    @property
    def finals(self) -> Path:
        """A line for each full distillation that has ended."""
        return self.path / "final.jsonl"

    @property
    def prelude(self) -> Path:
        """The run of the stages that all trials share."""
        return self.path / "shared"

    def trial(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def final(self, number: int) -> Path:
        """The run folder of the full distillation of a trial's point."""
        return self.path / "final" / f"{number:04d}"

    def trials(self) -> list[Trial]:
        """Return the trials that have ended, by number."""
        return read_trials(self.results)

    def final_trials(self) -> list[Trial]:
        """Return the full distillations that have ended, by number."""
        return read_trials(self.finals)

    def append(self, trial: Trial) -> None:
        """Add a trial that has ended."""
        append_trial(self.results, trial)

    def append_final(self, trial: Trial) -> None:
        """Add a full distillation that has ended."""
        append_trial(self.finals, trial)

    def read_state(self) -> dict[str, Any]:
        """Return what was last saved for going on."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{str(self.state)!r} cannot be read: {error}", repair="start the search anew") from error
        return dict(state)

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Save what the search needs to go on."""
        write_atomically(self.state, json.dumps(state, ensure_ascii=False) + "\n")


def read_outcome(run: Path) -> Outcome | None:
    """Return what a worker has written of a trial that ended, None if it has not ended."""
    try:
        data = json.loads((run / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    metrics = {name: float("nan") if value is None else value for name, value in data["metrics"].items()}
    return Outcome(State(data["state"]), metrics, data["reason"], data["seconds"], data["epochs"])
