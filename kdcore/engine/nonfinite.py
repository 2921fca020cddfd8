"""What becomes of a step whose loss or gradient is NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from kdcore.config.config import NonfiniteConfig
from kdcore.engine.mean import TOTAL, Added
from kdcore.engine.processes import Processes, held
from kdcore.errors import Place, RunError

# A larger buffer, such as a memory bank, is not copied in every step.
LARGEST_KEPT = 2**16
_SHOWN = 8
_BAD_GRADIENT = "the losses are finite, but a gradient is not"


class DivergedError(RunError):
    """A batch's loss turned out not to be finite; `step` is the one that it belonged to."""

    step = 0


class Guard:
    """Finds values that are not finite and does what `on_nonfinite` says.

    `stop` looks at the values when they are read anyway, a few times per epoch and before each
    checkpoint, so that no step waits for the device. `skip` and `lower_rate` must know before the
    optimizer moves: they look in every step. A skipped step leaves weights, optimizer and buffers
    as they were; `lower_rate` also multiplies the learning rate of all later steps by `factor`.

    Arguments:
        config: what to do.
        stage: the stage's name and place, for messages.
        objective: whose buffers are put back.
        tell: hears of every skipped step.
    """

    def __init__(
        self, config: NonfiniteConfig, stage: str, place: Place, objective: nn.Module, tell: Callable[[str], None]
    ) -> None:
        self.config = config
        self.stage = stage
        self.place = place
        self.tell = tell
        self.every_step = config.action != "stop"
        self.skipped = 0
        self.scale = 1.0
        self._objective = objective
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._found = ""

    def found(self, added: Added) -> None:
        """Raise DivergedError for a batch whose value turned out not to be finite."""
        step, indices = added.origin
        error = DivergedError(
            f"stage {self.stage!r} diverged: in step {step} {_named(added.values)} on samples {listed(indices)}",
            place=self.place,
            repair="lower the learning rate, set clip_grad_norm, look at these samples, or write on_nonfinite: skip "
            "(the latest checkpoint is from before)",
        )
        error.step = step
        raise error

    def check_weights(self, parameters: Iterable[tuple[str, Tensor]], step: int, processes: Processes) -> None:
        """Raise RunError if a trained parameter is not finite: such weights are not worth saving."""
        own = [name for name, parameter in parameters if not bool(held(parameter.detach()).isfinite().all())]
        # A process that holds a part of it alone must not be the only one to stop.
        bad = list(dict.fromkeys(name for each in processes.gather(own) for name in each))
        if bad:
            raise RunError(
                f"stage {self.stage!r} diverged: after step {step} {len(bad)} parameters are not finite, such as "
                f"{bad[0]}",
                place=self.place,
                repair="lower the learning rate, set clip_grad_norm, or write on_nonfinite: skip "
                "(the latest checkpoint is from before)",
            )

    def keep(self) -> None:
        """Copy the buffers that a step may change, to put them back if it is skipped."""
        if not self._kept:
            small = [each for each in self._objective.buffers() if each.numel() <= LARGEST_KEPT]
            self._kept = [(each, each.clone()) for each in small]
        for buffer, copy in self._kept:
            copy.copy_(buffer)

    def agree(self, sound: bool, processes: Processes) -> bool:
        """Whether a step is sound in every process; where it is not, all of them know why."""
        if not processes.any(not sound):
            return True
        found = [text for text in processes.gather("" if sound else self._found) if text]
        # The gradient is everybody's; whose loss it came from says more.
        self._found = min(found, key=lambda text: text == _BAD_GRADIENT)
        return False

    def accepts(self, values: Mapping[str, Tensor], indices: Tensor) -> bool:
        """Whether a batch's losses are finite; waits for the device."""
        if bool(torch.stack([value.detach().float() for value in values.values()]).isfinite().all()):
            return True
        self._found = f"{_named(values)} on samples {listed(indices)}"
        return False

    def accepts_gradients(self, gradients: Sequence[Tensor]) -> bool:
        """Whether the gradients are finite; waits for the device."""
        if math.isfinite(float(get_total_norm(gradients))):
            return True
        self._found = _BAD_GRADIENT
        return False

    def unmoved(self, step: int) -> None:
        """Raise DivergedError for a step that the optimizer has refused, in all processes, for its gradient."""
        error = DivergedError(
            f"stage {self.stage!r} diverged: in step {step} {_BAD_GRADIENT}",
            place=self.place,
            repair="lower the learning rate, set clip_grad_norm, or write on_nonfinite: skip (the latest checkpoint is "
            "from before)",
        )
        # A process that has found a loss which is not finite in this step knows the cause.
        error.step = step + 1
        raise error

    def reject(self, step: int) -> None:
        """Undo what a step did to buffers, and count it; raises RunError when there were too many."""
        for buffer, copy in self._kept:
            buffer.copy_(copy)
        self._check_buffers(step)
        if self.skipped >= self.config.limit:
            raise RunError(
                f"stage {self.stage!r} diverged: in step {step} {self._found}, after {self.skipped} skipped steps",
                place=self.place,
                repair="lower the learning rate, set clip_grad_norm, look at these samples, or raise "
                "on_nonfinite: {limit: ...}",
            )
        self.skipped += 1
        text = f"step {step} is skipped ({self.skipped} of at most {self.config.limit}): {self._found}"
        if self.config.action == "lower_rate":
            self.scale *= self.config.factor
            text += f"; the learning rate is multiplied by {self.scale:g} from here on"
        self.tell(text)

    def state_dict(self) -> dict[str, Any]:
        """Return the steps skipped so far and the factor on the learning rate."""
        return {"skipped": self.skipped, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped, self.scale = state["skipped"], state["scale"]

    def _check_buffers(self, step: int) -> None:
        for name, buffer in self._objective.named_buffers():
            if buffer.is_floating_point() and not bool(buffer.isfinite().all()):
                raise RunError(
                    f"stage {self.stage!r} diverged: in step {step} {self._found}, and the buffer {name} has taken it "
                    "in; large ones are not copied in every step, so the step cannot be skipped",
                    place=self.place,
                    repair="resume from the latest checkpoint with a lower learning rate or clip_grad_norm",
                )


def listed(indices: Tensor) -> str:
    """Return the first sample indices as text."""
    shown = indices.tolist()
    return ", ".join(map(str, shown[:_SHOWN])) + (f", ... ({len(shown)} in all)" if len(shown) > _SHOWN else "")


def _named(values: Mapping[str, Tensor]) -> str:
    """Say which values are not finite: the terms, or the total alone where every term is."""
    found = {name: float(value) for name, value in values.items()}
    terms = [f"term {name} is {value}" for name, value in found.items() if name != TOTAL and not math.isfinite(value)]
    return " and ".join(terms) or f"the total is {found[TOTAL]}"
