"""What becomes of a step whose loss or gradient is NaN or infinite."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from kdcore.config.config import NonfiniteConfig
from kdcore.engine.before_step import LARGEST_KEPT, BeforeStep
from kdcore.engine.blame import are_finite
from kdcore.engine.divergence import Divergences
from kdcore.engine.finding import Blamed, Finding, count_of, merged, sample_list
from kdcore.engine.gradient_samples import GradientSamples
from kdcore.engine.mean import DRAIN_EVERY, Added
from kdcore.engine.processes import Processes, held
from kdcore.errors import KdcoreError, Place, RunError
from kdcore.pipeline.objective import Objective

_REPAIR = "lower the learning rate, set clip_grad_norm, look at these samples"

# What of a batch's data is not finite, by entry: the samples.
Reread = Callable[[list[int]], Mapping[str, list[int]]]


class DivergedError(RunError):
    """A step's loss or gradient turned out not to be finite.

    `step` is the one that it belonged to, and `setting` what to change in the config so that a resumed run, which meets
    the same step again, goes on.
    """

    step = 0
    setting = ""


class Made(NamedTuple):
    """A step that was made, and gradients that show later whether those of the whole step were finite."""

    step: int
    indices: list[Tensor]
    gradients: list[Tensor]


class Guard:
    """Finds values that are not finite and does what `on_nonfinite` says.

    `stop` looks at the values when they are read anyway, a few times per epoch and before each
    checkpoint, so that no step waits for the device. `skip` and `lower_rate` must know before the
    optimizer moves: they look in every step. A skipped step leaves weights, optimizer, buffers and extra
    state as they were; `lower_rate` also multiplies the learning rate of all later steps by `factor`.
    Steps are counted from 0, so a checkpoint of 27 steps is what step 27 begins with.

    Arguments:
        config: what to do.
        stage: the stage's name and place, for messages.
        objective: whose buffers are put back.
        tell: hears of every skipped step.
        processes: that train together.
        divergences: where such steps are written down, if there is a run folder.
        reread: looks at the data of samples once more.
    """

    def __init__(
        self,
        config: NonfiniteConfig,
        stage: str,
        place: Place,
        objective: Objective,
        tell: Callable[[str], None],
        processes: Processes,
        divergences: Divergences | None,
        reread: Reread,
    ) -> None:
        self.config = config
        self.stage = stage
        self.place = place
        self.tell = tell
        self.processes = processes
        self.divergences = divergences
        self.reread = reread
        self.every_step = config.action != "stop"
        self.skipped = 0
        self.scale = 1.0
        self._objective = objective
        self._before: BeforeStep | None = None
        self._finding: Finding | None = None
        # Those whose values may not have been read yet, and the one before.
        self._made: deque[Made] = deque(maxlen=DRAIN_EVERY + 2)
        self._samples: GradientSamples | None = None

    def made(self, step: int, indices: list[Tensor]) -> None:
        """Remember a step, and some of its gradients, until its values have been read; nothing is read now."""
        if self._samples is None:
            self._samples = GradientSamples(self._objective, self.processes)
        self._made.append(Made(step, indices, self._samples.take()))

    def found(self, added: Added) -> None:
        """Raise DivergedError for a batch whose value turned out not to be finite, or for a gradient before it."""
        step, indices = added.origin
        # What is not finite in a step may come from the step before, whose gradient nobody has looked at.
        self._check_made(before=step)
        finding = Finding.of_losses(step, added.values, indices)
        self._stop(finding, self._circumstances(finding))

    def check_weights(self, parameters: Iterable[tuple[str, Tensor]], steps: int) -> None:
        """Raise DivergedError if a trained parameter is not finite: such weights are not worth saving."""
        own = [name for name, parameter in parameters if not are_finite([held(parameter)])]
        # A process that holds a part of it alone must not be the only one to stop.
        bad = list(dict.fromkeys(name for each in self.processes.gather(own) for name in each))
        if bad:
            what = f"{count_of(len(bad), 'parameter')} {'is' if len(bad) == 1 else 'are'} not finite"
            more = f"; after it {what}, such as {bad[0]}"
            self._check_made(before=steps, more=more)
            last = self._made[-1].indices if self._made else []
            self._stop(Finding.of_gradient(steps - 1, last, "the losses are finite"), more)

    def unmoved(self, step: int, indices: list[Tensor]) -> None:
        """Raise DivergedError for a step that the optimizer has refused, in all processes, for its gradient."""
        self._stop(Finding.of_gradient(step, indices))

    def keep(self) -> None:
        """Copy the buffers and the extra state that a step may change, to put them back if it is skipped."""
        self._finding = None
        if self._before is None:
            self._before = BeforeStep(self._objective)
        self._before.keep()

    def put_back(self) -> None:
        """Undo what a step has done to buffers and extra state since `keep`."""
        if self._before is not None:
            self._before.put_back()

    @property
    def repeatable(self) -> bool:
        """Whether a step that is skipped may run once more, because all that it changes is put back."""
        return self.processes.alike and all(each.numel() <= LARGEST_KEPT for each in self._objective.buffers())

    def accepts(self, added: Added) -> bool:
        """Whether a batch's losses are finite; waits for the device."""
        if bool(torch.stack([value.detach().float() for value in added.values.values()]).isfinite().all()):
            return True
        step, indices = added.origin
        self._finding = Finding.of_losses(step, added.values, indices)
        return False

    def accepts_gradients(self, step: int, gradients: Sequence[Tensor], indices: list[Tensor]) -> bool:
        """Whether the gradients are finite; waits for the device."""
        if math.isfinite(float(get_total_norm(gradients))):
            return True
        self._finding = Finding.of_gradient(step, indices)
        return False

    def reject(self, step: int, blamed: Blamed) -> None:
        """Undo what a step did to buffers and extra state, and count it; raises DivergedError when there were too many.

        Every process calls it where the step was not sound in one of them.

        Arguments:
            step: that is skipped.
            blamed: the terms that this process has found to be the cause.
        """
        self.put_back()
        every = self.processes.gather((self._finding, blamed))
        # The gradient is everybody's; whose loss it came from says more.
        finding = min((each for each, _ in every if each is not None), key=lambda each: each.gradient)
        text = finding.told(merged(its for _, its in every))
        self._check_buffers(step, text)
        allowed = self.skipped < self.config.limit
        if self.divergences is not None and self.processes.main:
            outcome = "skipped" if allowed else "stopped"
            records = [(process, each.as_record(outcome, its)) for process, (each, its) in enumerate(every) if each]
            for process, record in records:
                self.divergences.add({"process": process, **record})
        if not allowed:
            raise self._error(
                step,
                f"in step {step} {text}, after {count_of(self.skipped, 'skipped step')}",
                "raise on_nonfinite: {limit: ...} (diverged.json has all samples of the steps)",
                f".limit={2 * self.config.limit + 1}",
            )
        self.skipped += 1
        told = f"step {step} is skipped ({self.skipped} of at most {self.config.limit}): {text}"
        if self.config.action == "lower_rate":
            self.scale *= self.config.factor
            told += f"; the learning rate is multiplied by {self.scale:g} from here on"
        self.tell(told)

    def state_dict(self) -> dict[str, Any]:
        """Return the steps skipped so far and the factor on the learning rate."""
        return {"skipped": self.skipped, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped, self.scale = state["skipped"], state["scale"]

    def _check_made(self, before: int, more: str = "") -> None:
        """Raise DivergedError for the first step before `before` whose gradient was not finite."""
        for made in self._made:
            if made.step < before and not are_finite(made.gradients):
                self._stop(Finding.of_gradient(made.step, made.indices), more)

    def _circumstances(self, finding: Finding) -> str:
        """Say what else bears on losses that are not finite: their data, or the step before."""
        wrong = self.reread(finding.samples)
        if wrong:
            entries = [f"batch:{name} of {sample_list(samples)}" for name, samples in wrong.items()]
            return f"; {' and '.join(entries)} {'is' if len(entries) == 1 else 'are'} not finite"
        before = [each for each in self._made if each.step == finding.step - 1]
        if not before or not finding.everywhere:
            return ""
        samples = sample_list(Finding.of_gradient(0, before[0].indices).samples)
        return (
            f"; as no term is finite, step {finding.step - 1}, on {samples}, may have left weights that are not finite "
            "or far too large"
        )

    def _stop(self, finding: Finding, more: str = "") -> None:
        where = self._recorded(finding)
        whose = ""
        if self.processes.count > 1:
            whose = f" of process {self.processes.rank}" + (" or those of another" if finding.gradient else "")
        sought = "the term and the sample" if finding.gradient else "the sample"
        skip = f"write on_nonfinite: skip, which looks for {sought} too"
        # A process that has found a loss which is not finite in this step knows the cause.
        order = finding.step + finding.gradient
        text = f"in step {finding.step} {finding.told({})}{whose}{more}"
        raise self._error(order, text, f"{skip}{where}", "=skip")

    def _recorded(self, finding: Finding) -> str:
        """Write down a step where the run stops, and say where all of its samples are."""
        if self.divergences is None:
            return ""
        try:
            self.divergences.add(finding.as_record("stopped", {}))
        except KdcoreError as error:  # what ends the run may not be lost to a disk that is full
            return f" ({error.problem.what})"
        others = ", and diverged-PROCESS.json those of the others" if self.processes.count > 1 else ""
        return f" ({self.divergences.file} has all samples of the step{others})"

    def _error(self, order: int, text: str, last: str, change: str) -> DivergedError:
        repair = f"{_REPAIR}, or {last}"
        if self.divergences is not None:
            repair += f"; {self.divergences.saved()}"
        error = DivergedError(f"stage {self.stage!r} diverged: {text}", place=self.place, repair=repair)
        error.step, error.setting = order, f"stages.{self.stage}.on_nonfinite{change}"
        return error

    def _check_buffers(self, step: int, text: str) -> None:
        for name in self._before.unsound() if self._before is not None else ():
            raise RunError(
                f"stage {self.stage!r} diverged: in step {step} {text}, and the buffer {name} has taken it "
                "in; large ones are not copied in every step, so the step cannot be skipped",
                place=self.place,
                repair="resume from the latest checkpoint with a lower learning rate or clip_grad_norm",
            )
