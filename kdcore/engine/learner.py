"""What learns in a stage: its Objective and its optimizer, as the processes of a run train them together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdcore.config.config import StageConfig
from kdcore.pipeline.objective import Objective, ObjectiveOutput

if TYPE_CHECKING:
    from kdcore.engine.processes import Processes

_NOTHING = contextlib.nullcontext()


class Learner:
    """The Objective and the optimizer of a stage in a lone process; each way to train in several has its own.

    A step is `forward` and `backward` for each of its batches, then `step`, and `clear` whether it was made or not.

    Arguments:
        processes: that train together; all of them call what is called here, in the same order.
        objective: what is trained.
        optimizer: of its parameters.
        stage: how.
    """

    def __init__(
        self, processes: Processes, objective: Objective, optimizer: torch.optim.Optimizer, stage: StageConfig
    ) -> None:
        self.optimizer = optimizer
        self.parameters = [parameter for _, parameter in objective.named_trainable()]
        self.clip_grad_norm = stage.clip_grad_norm
        # What a step calls instead of the Objective, so that gradients are averaged.
        self.forward: Callable[..., ObjectiveOutput] = objective

    def apart(self) -> contextlib.AbstractContextManager[Any]:
        """Keep the gradients of passes within to each process; the next pass outside averages all."""
        return _NOTHING

    def backward(self, total: Tensor) -> None:
        """Let the gradients of a batch's total be added to those that its step has already."""
        total.backward()  # type: ignore[no-untyped-call]

    def gradients(self) -> list[Tensor]:
        """Return what this process holds of the gradients of a step."""
        return [each.grad for each in self.parameters if each.grad is not None]

    def step(self) -> bool:
        """Clip the gradients and step; returns whether the optimizer moved, whatever the gradients were."""
        if self.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm)
        self.optimizer.step()
        return True

    def scaled_step(self, scale: float) -> bool:
        """Step at `scale` times the learning rates."""
        groups = self.optimizer.param_groups
        # For this step only: schedulers compute the next rate from the one they find.
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * scale
        moved = self.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return moved

    def clear(self) -> None:
        """Forget the gradients of a step, made or not."""
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of an optimizer of whole parameters, in the main process or in all."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state, once the parameters are loaded; raises ValueError or KeyError if it does not fit."""
        self.optimizer.load_state_dict(dict(state))

    def begin(self) -> None:
        """Go on from the parameters as they are now, loaded after this was made, and from an optimizer that is new."""

    def close(self) -> None:
        """Let go of what was made around the Objective."""
