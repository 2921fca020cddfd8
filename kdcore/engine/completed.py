"""Stages that were completed before: whether what they left is whole, and what stays valid if one is done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdcore.config.config import Config, StageConfig
from kdcore.digest import digest_of, digest_of_file
from kdcore.engine.checkpoint import save_tensors
from kdcore.engine.checkpoints import Checkpoints
from kdcore.engine.folder import RunFolder
from kdcore.engine.processes import Processes
from kdcore.engine.results import StageResult
from kdcore.errors import RunError, WeightsError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.weights import read_tensors

State = dict[str, Any]


class Completed:
    """The completed stages of a run folder.

    A stage whose result or weights are damaged is not completed: its latest checkpoint, at the end of its last epoch,
    holds all that they are made from. Stages after it stay as they are if it ends with the weights that it had, and
    begin again if it does not.

    Arguments:
        config: of the run.
        assembly: what is put where the stages had left it.
        folder: of the run; the main process reads and writes.
        processes: what trains.
        tell: hears of what is damaged, and of what becomes of it.
    """

    def __init__(
        self, config: Config, assembly: Assembly, folder: RunFolder, processes: Processes, tell: Callable[[str], None]
    ) -> None:
        self._config = config
        self._assembly = assembly
        self._folder = folder
        self._processes = processes
        self._tell = tell
        # The digests of the weights with which stages that are done again had ended, as far as known.
        self._before: dict[str, dict[str, str]] = {}

    def restore(self, stage: StageConfig) -> StageResult | None:
        """Put everything where the stage had left it and return its result; None if it has to be trained."""
        found, states = self._read(stage) if self._processes.main else (None, {})
        result: StageResult | None = self._processes.share(found)
        if result is None:
            return None
        self._assembly.begin(stage)
        for name in stage.train:
            module = self._assembly.module(name)
            if self._processes.main:
                self._load(stage, name, states[name])
            self._processes.align(module)
        self._assembly.trained.update(stage.train)
        return result

    def ending(self, stage: StageConfig, weights: Mapping[str, str]) -> None:
        """Forget the stages after one that ends with other weights than before; called before these are written."""
        later = [each.name for each in self._config.stages[stage.index + 1 :]]
        later = [name for name in later if (self._folder.checkpoints / name).exists()]
        if not later:
            return
        before = self._before.get(stage.name)
        if before == weights:
            self._tell(f"stage {stage.name} ends with the weights that it had: what came after it stays")
            self._folder.put_in_order()
            return
        why = "does not end with the weights that it had" if before else "may have ended with other weights before"
        self._tell(f"stage {stage.name} {why}, so what came after it is trained again: {', '.join(later)}")
        self._folder.forget(later)

    def _read(self, stage: StageConfig) -> tuple[StageResult | None, dict[str, State]]:
        """Return a stage's result and its weights; None for a result if it is not completed."""
        damaged = ""
        try:
            result = StageResult.read(self._folder.result(stage.name))
        except RunError as error:
            result, damaged = None, error.problem.what
        states, flaws = self._states(stage, result)
        self._before[stage.name] = {name: digest_of(state) for name, state in states.items()}
        if result is not None:
            self._before[stage.name] |= result.weights
        damaged = damaged or (flaws[0] if result is not None and flaws else "")
        if damaged:
            again = "goes on from its latest checkpoint" if self._has_checkpoint(stage) else "is trained again"
            self._tell(f"{damaged}; stage {stage.name} counts as not completed and {again}")
            return None, {}
        return (result, states) if result is not None and result.covers(stage) else (None, {})

    def _states(self, stage: StageConfig, result: StageResult | None) -> tuple[dict[str, State], list[str]]:
        """Return the weights of a stage that can be read, and what is wrong with others."""
        states, flaws = {}, []
        for name in stage.train:
            file = self._folder.weights(stage.name, name)
            try:
                state = read_tensors(file, stage.place)
            except WeightsError as error:
                flaws.append(error.problem.what)
                continue
            if result is not None and result.weights.get(name, digest_of(state)) != digest_of(state):
                flaws.append(f"{str(file)!r} does not hold what was written")
                continue
            states[name] = state
        return states, flaws

    def _load(self, stage: StageConfig, name: str, state: State) -> None:
        file = self._folder.weights(stage.name, name)
        try:
            self._assembly.module(name).load_state_dict(state)
        except RuntimeError as error:
            raise RunError(
                f"{str(file)!r}, with which stage {stage.name!r} was completed, does not fit the {name!r} of this "
                f"config: {error}",
                place=stage.place,
                repair=f"resume with the {name!r} that the run was started with, or start a new run",
            ) from error
        trained_later = any(name in each.train for each in self._config.stages[stage.index + 1 :])
        if name in self._assembly.models and not trained_later and not _same(file, self._folder.final(name)):
            save_tensors(state, self._folder.final(name))

    def _has_checkpoint(self, stage: StageConfig) -> bool:
        return Checkpoints(self._folder.checkpoints / stage.name, self._config.checkpoints.keep).latest() is not None


def _same(file: Path, other: Path) -> bool:
    try:
        return digest_of_file(file) == digest_of_file(other)
    except OSError:
        return False
