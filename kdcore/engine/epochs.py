"""The epochs of a stage: train, evaluate, select, save, until the last one or until patience ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from kdcore.config.config import CheckpointsConfig, StageConfig
from kdcore.engine.before_step import LARGEST_KEPT
from kdcore.engine.carried import UnfitStateError
from kdcore.engine.checkpoint import Checkpoint
from kdcore.engine.checkpoints import Checkpoints
from kdcore.engine.finding import count_of
from kdcore.engine.folder import RunFolder
from kdcore.engine.interrupt import Interrupt, Interrupted
from kdcore.engine.metrics import Judge
from kdcore.engine.processes import Processes
from kdcore.engine.progress import Progress
from kdcore.engine.selection import Selection
from kdcore.engine.trainer import Trainer
from kdcore.engine.workers import deaths_unheard
from kdcore.errors import RunError
from kdcore.pipeline.diagnosis import DEAD_WORKER
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.randomness import generator_states

_GRACE = 0.5


@dataclass(frozen=True)
class EpochRecord:
    """One epoch as it is written down."""

    stage: StageConfig
    epoch: int
    step: int
    seconds: float
    lr: list[float]
    metrics: dict[str, float]

    def as_line(self) -> dict[str, Any]:
        """Return the line of metrics.jsonl."""
        return {
            "stage": self.stage.name,
            "stage_index": self.stage.index,
            "epoch": self.epoch,
            "epochs": self.stage.epochs,
            "step": self.step,
            "seconds": round(self.seconds, 4),
            "lr": self.lr,
            "metrics": self.metrics,
        }


class Epochs:
    """Trains a stage epoch by epoch, and can go on from any step that was saved.

    While pruning is not complete, no epoch counts as the best one and none towards early stopping: what
    is compared would be models of different sparsity, and the densest would win.

    Arguments:
        stage: what is trained.
        policy: when to save, and how many states to keep.
        objective: what is trained; its state is saved with the trainer's.
        trainer: makes the steps.
        folder: the run folder.
        evaluate: returns the metrics of the training data's means and judges, and of the other splits.
        new_judges: makes fresh judges for the training data of an epoch.
        interrupt: whether somebody wants the run to end.
        processes: what trains; the main one reads and writes.
        progress: the display.
        epoch_ended: told of every epoch.
        check_state: raises an error for what could be saved and not be read.
        warnings: what users were told about the stage; saved, since a resumed run does not meet it again.
    """

    def __init__(
        self,
        stage: StageConfig,
        policy: CheckpointsConfig,
        objective: Objective,
        trainer: Trainer,
        folder: RunFolder,
        *,
        evaluate: Callable[[dict[str, float], dict[str, Judge]], dict[str, float]],
        new_judges: Callable[[], dict[str, Judge]],
        interrupt: Interrupt,
        processes: Processes,
        progress: Progress,
        epoch_ended: Callable[[EpochRecord], None],
        check_state: Callable[[], None],
        warnings: list[str],
    ) -> None:
        self.stage = stage
        self.policy = policy
        self.objective = objective
        self.trainer = trainer
        self.folder = folder
        self.evaluate = evaluate
        self.new_judges = new_judges
        self.interrupt = interrupt
        self.processes = processes
        self.progress = progress
        self.epoch_ended = epoch_ended
        self.check_state = check_state
        self.warnings = warnings
        self.checkpoints = Checkpoints(folder.checkpoints / stage.name, policy.keep)
        self.best = Selection(stage.best.metric, stage.best.mode) if stage.best else None
        stop = stage.early_stop
        self.patience = Selection(stop.metric, stop.mode, stop.min_delta) if stop else None
        self.epoch = 0
        self.done = 0
        self.judges = new_judges()
        self._generators: dict[str, Any] | None = None
        self._seconds = 0.0
        self._clock = self._saved = time.monotonic()

    def resume(self) -> bool:
        """Go on from the newest sound state of this stage; returns whether there was one."""
        saved = self.processes.share(self.checkpoints.read_latest(self.progress.message) if self._main else None)
        if saved is None:
            return False
        try:
            state = self._load(saved)
            self.epoch, self._seconds = state["epoch"], state["seconds"]
            self.done = self.trainer.load_state_dict(state["trainer"], self.epoch, state["done"])
        except RunError as error:
            raise UnfitStateError(error.problem.what, place=error.problem.place, repair=error.problem.repair) from error
        self._resume_own(state["processes"])
        self._resume_choice("best", self.best, state["best"])
        self._resume_choice("early_stop", self.patience, state["patience"])
        self.warnings[:] = dict.fromkeys([*state["warnings"], *self.warnings])
        if self._main:
            self.folder.forget_epochs(self.stage.name, self.epoch)
        self.progress.message(f"stage {self.stage.name} goes on after epoch {self.epoch}, step {self.done} of the next")
        return True

    def _resume_choice(self, key: str, selection: Selection | None, saved: Mapping[str, Any] | None) -> None:
        """Go on comparing epochs, or begin to where they are compared otherwise."""
        if selection is None or saved is None or selection.load(saved):
            return
        self.progress.message(
            f"stage {self.stage.name}: {key}: {saved['metric']} ({saved['mode']}) is now {selection.metric} "
            f"({selection.mode}), so epochs are compared from epoch {self.epoch + 1} on"
        )

    def run(self) -> int:
        """Train the epochs that are left, and return how many there were in all."""
        while self.epoch < (self.stage.epochs or 1) and not self._patience_ended():
            with self.interrupt.deferred():
                try:
                    self._run_epoch()
                except Interrupted as signal:
                    # Raised between two steps or two batches of an evaluation, where everything is whole.
                    path = self._save()
                    signal.advice = f"saved in {path}"
                    raise
                except Exception as error:
                    if DEAD_WORKER in str(error):
                        # Sent to all processes of a job, a signal may reach a loader's worker before this process.
                        time.sleep(_GRACE)
                    if self.interrupt.requested is None:
                        raise
                    raise Interrupted(self.interrupt.requested) from error
        return self.epoch

    def load_best(self) -> None:
        """Load the best epoch's weights, if the config asks for them and an epoch had any."""
        if self.best is not None and self.best.best_epoch is not None:
            epoch = self.best.best_epoch
            self._load(self.processes.share(self.checkpoints.read_best(epoch) if self._main else None))

    def _load(self, saved: Checkpoint) -> dict[str, Any]:
        """Load a checkpoint into the Objective, each process its part, and return the rest of the state."""
        held = self.objective.state_dict()
        parts = {name: self.processes.part(value, held.get(name)) for name, value in saved.whole.items()}
        return replace(saved, whole=parts).load_into(self.objective)

    def _run_epoch(self) -> None:
        self._clock = time.monotonic()
        self.progress.epoch_started(self.epoch, self.done)
        generators, self._generators = self._generators, None
        means = self.trainer.epoch(
            self.epoch, self.judges, done=self.done, generators=generators, after_step=self._after_step
        )
        metrics = self.evaluate(means, self.judges)
        lr = self.trainer.learning_rates()
        if self.trainer.scheduler is not None:
            self.trainer.scheduler.epoch_ended(metrics)
        counts = self.trainer.pruner is None or self.trainer.pruner.completed
        improved = counts and self.best is not None and self.best.update(self.epoch, metrics)
        if counts and self.patience is not None:
            self.patience.update(self.epoch, metrics)
        record = EpochRecord(self.stage, self.epoch, self.trainer.step, self._elapsed(), lr, metrics)
        if improved:
            whole = self.processes.whole(self.objective.state_dict())
            if self._main:
                self.checkpoints.save_best(whole, self.epoch)
        self.epoch_ended(record)
        self.epoch, self.done, self._seconds, self.judges = self.epoch + 1, 0, 0.0, self.new_judges()
        self._clock = time.monotonic()
        last = self.epoch == self.stage.epochs or self._patience_ended()
        if last or self.epoch % self.policy.every_epochs == 0 or self._minutes_over():
            self._save()
        if self._patience_ended() and self.stage.early_stop is not None:
            stop = self.stage.early_stop
            value = "" if math.isfinite(metrics[stop.metric]) else f" (it is {metrics[stop.metric]})"
            epochs = count_of(stop.patience, "epoch")
            self.progress.message(
                f"stage {self.stage.name} ends early: {stop.metric} has not improved for {epochs}{value}"
            )

    def _patience_ended(self) -> bool:
        stop = self.stage.early_stop
        return stop is not None and self.patience is not None and self.patience.waited >= stop.patience

    def _after_step(self) -> None:
        self.done += 1
        if self.trainer.step == 1:
            # The rehearsal has looked too, but what is remembered of a step may first be there after one.
            self.check_state()
        self.interrupt.check()
        steps = self.policy.every_steps
        if (steps is not None and self.trainer.step % steps == 0) or self._minutes_over():
            self._save()

    def _minutes_over(self) -> bool:
        minutes = self.policy.every_minutes
        # Clocks differ from process to process, and all must save at the same step.
        return minutes is not None and self.processes.any(time.monotonic() - self._saved >= 60 * minutes)

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._clock

    @deaths_unheard()
    def _save(self) -> str:
        """Save everything that later steps depend on; raises RunError rather than save weights that are not finite."""
        self.trainer.check()
        state = {
            "stage": self.stage.name,
            "epoch": self.epoch,
            "done": self.done,
            "step": self.trainer.step,
            "seconds": self._elapsed(),
            "trainer": self.trainer.state_dict(),
            "processes": self.processes.gather(self._own_state()),
            "best": asdict(self.best) if self.best else None,
            "patience": asdict(self.patience) if self.patience else None,
            "warnings": list(self.warnings),
        }
        best = self.best.best_epoch if self.best else None
        whole = self.processes.whole(self.objective.state_dict())
        path = str(self.checkpoints.save(whole, state, best)) if self._main else ""
        self._saved = time.monotonic()
        return path

    @property
    def _main(self) -> bool:
        return self.processes.main

    def _own_state(self) -> dict[str, Any]:
        """Return what each process has of its own: what it counted, its random generators, its buffers."""
        return {
            "mean": self.trainer.mean.state_dict(),
            "judges": {name: judge.state_dict() for name, judge in self.judges.items()},
            "generators": generator_states(),
            "buffers": {} if self._main else dict(self._own_buffers()),
        }

    def _own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers in which processes may differ; large ones (memory banks) are kept alike by losses."""
        for name, buffer in self.objective.named_buffers():
            if buffer.numel() <= LARGEST_KEPT:
                yield name, buffer

    def _resume_own(self, states: Sequence[Mapping[str, Any]]) -> None:
        if len(states) != self.processes.count:
            raise RunError(
                f"stage {self.stage.name!r} was saved by {len(states)} processes, and this run has "
                f"{self.processes.count}: it would not go on as it was",
                place=self.stage.place,
                repair=f"resume with {len(states)}",
            )
        own = states[self.processes.rank]
        self.trainer.mean.load_state_dict(own["mean"], self.trainer.device)
        for name, judge in self.judges.items():
            if name in own["judges"]:
                judge.load_state_dict(own["judges"][name])
        self._generators = own["generators"]
        for name, buffer in self._own_buffers():
            if name in own["buffers"]:
                buffer.copy_(own["buffers"][name])
