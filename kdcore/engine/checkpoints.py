"""The checkpoints of a stage: named by epoch and step, kept to a limit, found again after a crash."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdcore.engine.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    UnreadableCheckpointError,
    check_checkpoint,
    read_checkpoint,
    read_state,
    save_checkpoint,
)

_NAME = re.compile(r"epoch-(\d+)-step-(\d+)")
_BEST = re.compile(r"best-epoch-(\d+)")

Key = tuple[int, int]


class Checkpoints:
    """What `checkpoints/<stage>` holds: the latest states of training, and the best epoch's weights.

    The best weights that some kept state refers to are kept as long as that state is, since
    resuming from it needs them.

    Arguments:
        folder: where they are.
        keep: how many states are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._best_of: dict[Key, int | None] = {}

    def save(self, whole: Mapping[str, Any], state: Mapping[str, Any], best_epoch: int | None) -> Path:
        """Write a state of training and the Objective's state_dict, then remove those beyond the limit."""
        key = (int(state["epoch"]), int(state["step"]))
        path = self.folder / f"epoch-{key[0]:05d}-step-{key[1]:09d}"
        save_checkpoint(path, whole, {**state, "best_epoch": best_epoch})
        self._best_of[key] = best_epoch
        self._prune()
        return path

    def save_best(self, whole: Mapping[str, Any], epoch: int) -> None:
        """Write the weights of an epoch that is the best so far."""
        save_checkpoint(self._best(epoch), whole, {"epoch": epoch})

    def read_best(self, epoch: int) -> Checkpoint:
        """Return the weights of the best epoch."""
        return read_checkpoint(self._best(epoch))

    def read_latest(self, tell: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest sound state, or None if there is none; `tell` hears of others, and of what becomes of them.

        Raises:
            UnreadableCheckpointError: nothing is damaged, but none can be read.
        """
        left = sorted(self._states().items())
        passed: dict[Path, UnreadableCheckpointError] = {}
        while left:
            key, path = left.pop()
            whither = "going on from the one before" if left else "no other is left, so the stage begins anew"
            try:
                best = read_state(path)["best_epoch"]
                if best is not None:
                    check_checkpoint(self._best(best))
            except DamagedCheckpointError as error:
                tell(f"{error.problem.what}; {whither}" if left or not passed else error.problem.what)
                shutil.rmtree(path, ignore_errors=True)
                continue
            except UnreadableCheckpointError as error:
                passed[path] = error
                if left:
                    tell(f"{error.problem.what}; {whither}")
                continue
            for newer in passed:
                shutil.rmtree(newer, ignore_errors=True)
            self._best_of[key] = best
            return read_checkpoint(path)
        # Nothing that can be read is left: somebody may still find a way to read the newest.
        if passed:
            raise next(iter(passed.values()))
        return None

    def latest(self) -> Path | None:
        """Return the newest state, unread."""
        states = self._states()
        return states[max(states)] if states else None

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-epoch-{epoch:05d}"

    def _states(self) -> dict[Key, Path]:
        return {(int(found[1]), int(found[2])): path for path, found in self._matching(_NAME)}

    def _matching(self, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
        paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [(path, found) for path in paths if (found := pattern.fullmatch(path.name))]

    def _prune(self) -> None:
        states = self._states()
        kept = sorted(states)[-self.keep :]
        for key in states.keys() - set(kept):
            shutil.rmtree(states[key], ignore_errors=True)
        referred = {self._best_of.get(key) for key in kept}
        if kept and kept[0] in self._best_of:  # an older state than this process has seen may need any of them
            for path, found in self._matching(_BEST):
                if int(found[1]) not in referred:
                    shutil.rmtree(path, ignore_errors=True)
