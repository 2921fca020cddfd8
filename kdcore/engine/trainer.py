"""The loop: batches in, optimizer steps out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdcore.collective import absent
from kdcore.config.config import StageConfig
from kdcore.engine.blame import blame_terms, wrong_entries
from kdcore.engine.built import Built
from kdcore.engine.carried import Training, go_on
from kdcore.engine.device import autocast, batch_to_device
from kdcore.engine.divergence import Divergences
from kdcore.engine.evaluation import judged, with_samples
from kdcore.engine.finding import merged
from kdcore.engine.loader import Loader
from kdcore.engine.mean import TOTAL, Added, Mean
from kdcore.engine.metrics import Hits, Judge
from kdcore.engine.nonfinite import Guard
from kdcore.engine.processes import Processes
from kdcore.engine.progress import Progress
from kdcore.engine.samples import Sample
from kdcore.engine.schedulers import Stepper
from kdcore.engine.steps import steps_per_epoch
from kdcore.engine.window import ABSENT, Part, parts_of, windows
from kdcore.errors import KdcoreError, RunError
from kdcore.pipeline.objective import Objective, ObjectiveOutput, Share
from kdcore.pipeline.randomness import forked_generators, set_generator_states

if TYPE_CHECKING:
    from kdcore.pruning.pruner import Pruner

# What a batch adds to the metrics of its epoch, if its step is made.
Seen = tuple[Added, list[tuple[Judge, Hits]]]

_NOTHING = contextlib.nullcontext()


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
        # How many more steps were made than schedules count, where a step was less than it is now.
        self._ahead = 0
        samples = stage.accumulate * loader.config.batch_size * self.processes.count
        self.built = Built.of(optimizer, scheduler, objective.named_trainable(), self.steps_per_epoch, samples)
        self.learner = self.processes.learner(objective, optimizer, stage)
        self._autocast = autocast(device, stage.precision)
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
        steps = windows(self.loader.epoch(epoch, done * self.stage.accumulate), self.stage.accumulate)
        if generators is not None:
            # Only now, when nothing but training will draw from them.
            set_generator_states(generators)
        for window in itertools.islice(steps, self.steps_per_epoch - done):
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
            "optimizer": self.learner.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "guard": self.guard.state_dict(),
            "built": self.built.state_dict(),
            "ahead": self._ahead,
            "pruner": self.pruner.state_dict() if self.pruner is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any], epoch: int, done: int) -> int:
        """Go on from `state`, saved in an epoch after `done` of its steps, and return how many these are by now.

        Raises:
            RunError: it belongs to something else, or cannot go on under the config as it is now.
        """
        then = Built.read(state["built"]) if "built" in state else None
        done = done if then is None else self.built.steps_done(then, done, self.stage)
        self.step, self._ahead = state["step"], state.get("ahead", 0)
        if then is not None and not self.built.same_steps(then):
            # Schedules count as if a step had always been what it is now.
            self._ahead = self.step - epoch * self.steps_per_epoch - done
        self.total_steps += self._ahead
        training = Training(self.built, self.optimizer, self.scheduler, self.learner, self.guard)
        try:
            changes = go_on(training, then, state, steps=self.step - self._ahead, epochs=epoch)
        except (ValueError, KeyError) as error:
            raise RunError(
                f"the saved state does not fit the optimizer of stage {self.stage.name!r}: {error}",
                place=self.stage.place,
                repair="resume with the config of the saved run",
            ) from error
        # Who resumes with pruning: added, accepting the change, begins it here.
        pruned = state.get("pruner")
        if self.pruner is not None and pruned is not None:
            ahead = self._ahead - state.get("ahead", 0)
            self.pruner.load_state_dict({**pruned, "step": max(pruned["step"] - ahead, 0)})
        elif pruned is not None:
            changes.append("pruning ends, and its zeros do not last")
        if changes:
            self.progress.message(f"stage {self.stage.name}: {', '.join(changes)} from step {self.step} on")
        elif then is None:
            self.progress.message(
                f"stage {self.stage.name}: its checkpoint, of an earlier version, does not say which optimizer and "
                "scheduler it is of; they go on as they were, whatever the config says by now"
            )
        return done

    def close(self) -> None:
        """Let go of what trained; the Objective and the optimizer stay."""
        self.learner.close()

    def _train(self, window: Sequence[Sample], judges: dict[str, Judge]) -> None:
        """Make the step of a window, or skip it."""
        guard, pruner = self.guard, self.pruner
        if guard.every_step:
            guard.keep()
        parts = parts_of(window, self.objective, self.processes)
        indices = [batch["index"] for batch, share in parts if share is not ABSENT]
        seen, sound = self._passes(parts, judges)
        if not guard.every_step:
            guard.made(self.step, indices)
        if guard.every_step and not self._sound(sound, indices):
            # It counts nowhere, neither in metrics nor for the pruner, whichever batch or process was to blame.
            guard.reject(self.step, self._blame(parts) if guard.repeatable else {})
        else:
            for losses, hits in seen:
                self.mean.append(losses)
                for judge, each in hits:
                    judge.count(each)
            if pruner is not None:
                pruner.before_optimizer()
            self._move(indices)
            if pruner is not None:
                pruner.after_optimizer()
        self.learner.clear()

    def _passes(self, parts: Sequence[Part], judges: dict[str, Judge]) -> tuple[list[Seen], bool]:
        """Run the batches of a step forward and backward; returns what was seen, and whether no loss was unsound."""
        seen: list[Seen] = []
        sound, left = True, len(parts)
        for batch, share in parts:
            left -= 1
            # Gradients are averaged over the processes once, with the last batch.
            with self.learner.apart() if left else _NOTHING:
                out = self._pass(batch, share)
            if share is not ABSENT:
                losses = self._losses(batch, share, out)
                sound = sound and (not self.guard.every_step or self.guard.accepts(losses))
                seen.append((losses, judged(judges, self.objective, self.stage.metrics.target)))
        return seen, sound

    def _pass(self, batch: Sample, share: Share | None) -> ObjectiveOutput:
        """Run a batch forward and backward."""
        learner = self.learner
        try:
            with self._autocast:
                if share is ABSENT:
                    with absent():
                        out = learner.forward(batch_to_device(batch, self.device))
                    # A gradient of 0, that the others may average with theirs.
                    out = ObjectiveOutput(out.total * 0, out.terms)
                else:
                    out = learner.forward(batch_to_device(batch, self.device), share)
        except KdcoreError as error:
            raise with_samples(error, batch, self.loader, self.stage) from error
        learner.backward(out.total)
        return out

    def _losses(self, batch: Sample, share: Share | None, out: ObjectiveOutput) -> Added:
        total = out.total.detach() if share is None else out.total.detach() / share.fraction
        indices = batch["index"]
        origin = (self.step, indices)
        return Added({TOTAL: total, **out.terms}, dict(self.objective.counts), indices.shape[0], origin)

    def _sound(self, sound: bool, indices: list[Tensor]) -> bool:
        """Whether a step whose losses were sound here, or were not, is so with its gradients, in every process."""
        sound = sound and self.guard.accepts_gradients(self.step, self.learner.gradients(), indices)
        return not self.processes.any(not sound)

    def _move(self, indices: list[Tensor]) -> None:
        learner, scale = self.learner, self.guard.scale
        if not (learner.step() if scale == 1 else learner.scaled_step(scale)):
            # A loss that is not finite says more.
            self.mean.check()
            self.guard.unmoved(self.step, indices)

    def _blame(self, parts: Sequence[Part]) -> dict[str, list[int]]:
        """Return the terms that make a step unsound in this process; all processes look, for losses may communicate."""
        found: list[dict[str, list[int]]] = []
        # What the step has spoilt would make other terms and samples look guilty.
        self.guard.put_back()
        try:
            with forked_generators(), self._autocast:
                for batch, share in parts:
                    present = share is not ABSENT
                    with _NOTHING if present else absent():
                        moved = batch_to_device(batch, self.device)
                        blamed = blame_terms(self.objective, moved, self.learner.parameters)
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
