"""What a run folder keeps of steps that were not finite."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from kdcore.config.config import StageConfig
from kdcore.engine.checkpoints import Checkpoints
from kdcore.engine.folder import RunFolder

_IDENTITY = ("stage", "step", "process")


class Divergences:
    """Writes down the steps of a stage that were not finite: `diverged.json` in the run folder.

    Where a run ends, no other process can be waited for: each writes what it knows itself, process 1 `diverged-1.json`.

    Arguments:
        folder: of the run.
        stage: that is trained.
        process: the number of this one among those of the run.
    """

    def __init__(self, folder: RunFolder, stage: StageConfig, process: int = 0) -> None:
        self.folder = folder
        self.stage = stage
        self.process = process
        self.file = f"diverged-{process}.json" if process else "diverged.json"

    def add(self, record: Mapping[str, Any]) -> None:
        """Write down one step; a resumed run that meets it again replaces what was written then."""
        new = {"stage": self.stage.name, "process": self.process, **record}
        kept = [each for each in self._steps() if any(each.get(key) != new[key] for key in _IDENTITY)]
        self.folder.write_json(self.file, {"steps": [*kept, new]})

    def saved(self) -> str:
        """Say what there is to go on from."""
        latest = Checkpoints(self.folder.checkpoints / self.stage.name, 1).latest()
        if latest is None:
            return "no checkpoint of this stage had been saved before, so a resumed run starts the stage anew"
        return f"the latest checkpoint, {latest.name}, is from before"

    def _steps(self) -> list[Any]:
        with contextlib.suppress(FileNotFoundError, ValueError, LookupError, TypeError):
            return list(json.loads((self.folder.path / self.file).read_text(encoding="utf-8"))["steps"])
        return []
