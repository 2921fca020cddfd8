"""The loop: batches in, optimizer steps out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kdcore.collective import absent
from kdcore.config.config import StageConfig
from kdcore.engine.blame import blame_terms, wrong_entries
from kdcore.engine.data import Loader, Sample
from kdcore.engine.device import batch_to_device
from kdcore.engine.divergence import Divergences
from kdcore.engine.evaluation import judged, with_samples
from kdcore.engine.finding import merged
from kdcore.engine.mean import TOTAL, Added, Mean
from kdcore.engine.metrics import Hits, Judge
from kdcore.engine.nonfinite import Guard
from kdcore.engine.part import counted
from kdcore.engine.processes import Processes
from kdcore.engine.progress import Progress
from kdcore.engine.schedulers import Stepper
from kdcore.engine.steps import steps_per_epoch
from kdcore.errors import KdcoreError, RunError
from kdcore.pipeline.objective import Objective, ObjectiveOutput, Share, autocast
from kdcore.pipeline.randomness import forked_generators, set_generator_states
from kdcore.pipeline.step_counts import StepCounts, count_positions

if TYPE_CHECKING:
    from kdcore.pruning.pruner import Pruner

# A batch that stands in for one that this process has not: its weight in the step is 0.
ABSENT = Share(0.0)
_NOTHING = contextlib.nullcontext()


class Seen(NamedTuple):
    """What a batch adds to the metrics of its epoch, if its step is made."""

    losses: Added
    judged: list[tuple[Judge, Hits]]


class Trainer:
    """Runs the optimizer steps of a stage, one epoch at a time."""

    def __init__(
        self,
        stage: StageConfig,
        objective: Objective,
        loader: Loader,
        optimizer: torch.optim.Optimizer,
        scheduler: Stepper | None,
        device: torch.device,
        progress: Progress,
        tell: Callable[[str], None] | None = None,
        processes: Processes | None = None,
        pruner: Pruner | None = None,
        divergences: Divergences | None = None,
    ) -> None:
        self.stage = stage
        self.objective = objective
        self.loader = loader
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.device = device
        self.progress = progress
        self.pruner = pruner
        self.step = 0
        self.processes = processes or Processes()
        self.guard = Guard(
            stage.on_nonfinite,
            stage.name,
            stage.place,
            objective,
            tell or progress.message,
            self.processes,
            divergences,
            self._reread,
        )
        self.mean = Mean(self.guard.found)
        self.steps_per_epoch = steps_per_epoch(stage, loader)
        self.total_steps = self.steps_per_epoch * (stage.epochs or 1)
        self._forward = self.processes.wrap(
            objective, find_unused=stage.find_unused, optimizer=optimizer, clip_grad_norm=stage.clip_grad_norm
        )
        self._autocast = autocast(device, stage.precision)
        self._parameters = [parameter for _, parameter in objective.named_trainable()]
        self._epoch = 0

    def epoch(
        self,
        epoch: int,
        judges: dict[str, Judge],
        *,
        done: int = 0,
        generators: Mapping[str, Any] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Train one epoch and return the mean of the total and of each term.

        Arguments:
            epoch: counted from 0.
            judges: of the models whose outputs are judged.
            done: how many of its steps were made before, in a run that is resumed.
            generators: states of the random generators to go on from.
            after_step: called after every step.
        """
        self.objective.train()
        self._epoch = epoch
        if done == 0:
            self.mean = Mean(self.guard.found)
        windows = _windows(self.loader.epoch(epoch, done * self.stage.accumulate), self.stage.accumulate)
        if generators is not None:
            # Only now, when nothing but training will draw from them.
            set_generator_states(generators)
        for window in itertools.islice(windows, self.steps_per_epoch - done):
            self.objective.progress(self.step, self.total_steps, epoch)
            self._train(window, judges)
            self.step += 1
            if self.scheduler is not None:
                self.scheduler.step_ended()
            self.progress.step_ended(self.mean.latest)
            if after_step is not None:
                after_step()
        return self.mean.compute(self.processes.gather)

    def learning_rates(self) -> list[float]:
        """Return the learning rate of each parameter group."""
        return [float(group["lr"]) * self.guard.scale for group in self.optimizer.param_groups]

    def check(self) -> None:
        """Raise RunError if a loss or a trained parameter is not finite by now."""
        self.mean.check()
        self.guard.check_weights(self.objective.named_trainable(), self.step)

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on and all processes have alike, but the Objective."""
        return {
            "step": self.step,
            "optimizer": self.processes.optimizer_state(self.optimizer),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "guard": self.guard.state_dict(),
            "pruner": self.pruner.state_dict() if self.pruner is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; raises RunError if it belongs to another optimizer or scheduler."""
        self.step = state["step"]
        try:
            self.processes.load_optimizer(self.optimizer, state["optimizer"])
        except (ValueError, KeyError) as error:
            raise RunError(
                f"the saved state does not fit the optimizer of stage {self.stage.name!r}: {error}",
                place=self.stage.place,
                repair="resume with the config of the saved run",
            ) from error
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.guard.load_state_dict(state["guard"])
        # Who resumes with pruning: added, accepting the change, begins it here.
        if self.pruner is not None and state.get("pruner") is not None:
            self.pruner.load_state_dict(state["pruner"])

    def _train(self, window: Sequence[Sample], judges: dict[str, Judge]) -> None:
        guard, pruner = self.guard, self.pruner
        if guard.every_step:
            guard.keep()
        seen = self._passes(window, judges)
        indices = [batch["index"] for batch in window if counted(batch)[0]]
        if not guard.every_step:
            guard.made(self.step, indices)
        if guard.every_step and not self._sound(seen is not None, indices):
            # It counts nowhere, neither in metrics nor for the pruner, whichever batch or process was to blame.
            guard.reject(self.step, self._blame(window) if guard.repeatable else {})
        else:
            for each in seen or ():
                self.mean.append(each.losses)
                for judge, hits in each.judged:
                    judge.count(hits)
            if pruner is not None:
                pruner.before_optimizer()
            self._move(indices)
            if pruner is not None:
                pruner.after_optimizer()
        self.processes.clear(self.optimizer)

    def _passes(self, window: Sequence[Sample], judges: dict[str, Judge]) -> list[Seen] | None:
        """Run the batches of a step forward and backward; returns what was seen, or None if a loss is not finite."""
        seen: list[Seen | None] = []
        left = len(window)
        for batch, share in self._shares(window):
            left -= 1
            # Gradients are averaged over the processes once, with the last batch.
            with self.processes.apart(self._forward) if left else _NOTHING:
                out = self._pass(batch, share)
            if share is not ABSENT:
                seen.append(self._look(batch, share, out, judges))
        sound = [each for each in seen if each is not None]
        return sound if len(sound) == len(seen) else None

    def _look(self, batch: Sample, share: Share | None, out: ObjectiveOutput, judges: dict[str, Judge]) -> Seen | None:
        total = out.total.detach() if share is None else out.total.detach() / share.fraction
        values, indices = {TOTAL: total, **out.terms}, batch["index"]
        if self.guard.every_step and not self.guard.accepts(self.step, values, indices):
            return None
        losses = Added(values, dict(self.objective.counts), len(indices), (self.step, indices))
        return Seen(losses, judged(judges, self.objective, self.stage.metrics.target))

    def _sound(self, sound: bool, indices: list[Tensor]) -> bool:
        """Whether a step whose losses were sound here, or were not, is so with its gradients, in every process."""
        gradients = self.processes.gradients(self._parameters)
        sound = sound and self.guard.accepts_gradients(self.step, gradients, indices)
        return not self.processes.any(not sound)

    def _blame(self, window: Sequence[Sample]) -> dict[str, list[int]]:
        """Return the terms that make a step unsound in this process; all processes look, for losses may communicate."""
        found: list[dict[str, list[int]]] = []
        try:
            with forked_generators(), self._autocast:
                for batch in window:
                    present = counted(batch)[0] > 0
                    with _NOTHING if present else absent():
                        blamed = blame_terms(self.objective, batch_to_device(batch, self.device), self._parameters)
                    found += [blamed] if present else []
        except RuntimeError:
            # Reentrant checkpointing and compiled graphs refuse; one of several processes may not fail by itself.
            if self.processes.count > 1:
                raise
        return merged(found)

    def _reread(self, samples: list[int]) -> dict[str, list[int]]:
        try:
            return wrong_entries(self.loader.draw(samples, self._epoch))
        except KdcoreError:  # what cannot be read once more says nothing about the values that it had
            return {}

    def _pass(self, batch: Sample, share: Share | None) -> ObjectiveOutput:
        """Run a batch forward and backward."""
        try:
            with self._autocast:
                if share is ABSENT:
                    with absent():
                        out = self._forward(batch_to_device(batch, self.device))
                    # A gradient of 0, that the others may average with theirs.
                    out = ObjectiveOutput(out.total * 0, out.terms)
                else:
                    out = self._forward(batch_to_device(batch, self.device), share)
        except KdcoreError as error:
            raise with_samples(error, batch, self.loader, self.stage) from error
        self.processes.backward(out.total)
        return out

    def _move(self, indices: list[Tensor]) -> None:
        groups, scale = self.optimizer.param_groups, self.guard.scale
        # For this step only: schedulers compute the next rate from the one they find.
        rates = [] if scale == 1 else [group["lr"] for group in groups]
        if rates:
            _set_rates(groups, [rate * scale for rate in rates])
        moved = self.processes.move(self.optimizer, self._parameters, self.stage.clip_grad_norm)
        if rates:
            _set_rates(groups, rates)
        if not moved:
            # A loss that is not finite says more.
            self.mean.check()
            self.guard.unmoved(self.step, indices)

    def _shares(self, window: Sequence[Sample]) -> Iterable[tuple[Sample, Share | None]]:
        """Say what part of the step each batch is, so that the parts add up to one batch of all of it."""
        processes = self.processes.count
        if len(window) == processes == 1:
            return [(window[0], None)]
        sizes = [counted(batch) for batch in window]
        present = [rows > 0 for rows, _ in sizes]
        sums = self.processes.sum(count_positions(self.objective, window, present))
        step = StepCounts(sum(whole for _, whole in sizes), sums, processes)
        return [(batch, step.part(rows) if rows else ABSENT) for batch, (rows, _) in zip(window, sizes, strict=True)]


def _windows(batches: Iterator[Sample], size: int) -> Iterator[list[Any]]:
    while window := list(itertools.islice(batches, size)):
        yield window


def _set_rates(groups: Sequence[dict[str, Any]], rates: Sequence[float]) -> None:
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
