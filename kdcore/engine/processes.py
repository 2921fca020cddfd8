"""What the engine asks of the processes that run it: here a lone one, at no cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.config.config import Config
from kdcore.config.distributed import DEEPSPEED, FSDP
from kdcore.engine.device import choose_device
from kdcore.errors import EndedElsewhereError, KdcoreError
from kdcore.launcher import is_first_here, process_count, process_rank
from kdcore.pipeline.blocks import Blocks
from kdcore.pipeline.objective import Objective, ObjectiveOutput

Forward = Callable[..., ObjectiveOutput]

_NOTHING = contextlib.nullcontext()


class Processes:
    """The processes of a run; this is the lone one, `several.Accelerated` its counterpart.

    Whatever is called here is called by every process, in the same order.
    """

    rank = 0
    count = 1
    # Whether what is trained is split: its modules are then of use within the stage's Objective only.
    sharded = False
    # Whether each process holds all gradients, and its models can be run by themselves.
    alike = True

    def __init__(self, config: Config | None = None) -> None:
        self.config = config

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Return where this process computes."""
        assert self.config is not None
        return choose_device(self.config.device, self.config.place("device"))

    def shard(self, objective: Objective, blocks: Blocks) -> None:
        """Split what is trained over the processes, where the config says so; before there is an optimizer."""

    def wrap(
        self,
        objective: Objective,
        *,
        find_unused: bool,
        optimizer: torch.optim.Optimizer,
        clip_grad_norm: float | None,
    ) -> Forward:
        """Return what a training step calls instead of the Objective, so that gradients are averaged."""
        return objective

    def unwrap(self) -> None:
        """Let go of what `wrap` made."""

    def apart(self, forward: Forward) -> contextlib.AbstractContextManager[Any]:
        """Keep the gradients of passes within to each process; the next pass outside averages all."""
        return _NOTHING

    def backward(self, total: Tensor) -> None:
        """Let the gradients of a batch's total be added to those that its step has already."""
        total.backward()  # type: ignore[no-untyped-call]

    def gradients(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return what this process holds of the gradients of a step."""
        return [held(each.grad) for each in parameters if each.grad is not None]

    def move(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip_grad_norm: float | None
    ) -> bool:
        """Clip the gradients and step; returns whether the optimizer moved, whatever the gradients were."""
        if clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip_grad_norm)
        optimizer.step()
        return True

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients of a step, made or not."""
        optimizer.zero_grad(set_to_none=True)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of an optimizer of whole parameters, in the main process or in all."""
        state: dict[str, Any] = self.whole(optimizer.state_dict())
        return state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Go on from such a state, once the parameters are loaded; raises ValueError or KeyError if it does not fit."""
        optimizer.load_state_dict(dict(state))

    def gathered(self, objective: Objective) -> contextlib.AbstractContextManager[Any]:
        """Have the parameters of losses and balancer whole, so that they can be called by themselves."""
        return _NOTHING

    def whole(self, state: Any, *, everywhere: bool = False) -> Any:
        """Return a state with split tensors put together, in the main process or in all."""
        return state

    def part(self, value: Any, like: Any) -> Any:
        """Return this process's part of a tensor, if `like` is split; anything else as it is."""
        return value

    def sum(self, values: Mapping[str, Tensor | float]) -> Mapping[str, Tensor | float]:
        """Return the sum of each number over all processes."""
        return values

    def any(self, found: bool) -> bool:
        """Whether it is so in any process."""
        return found

    def vote(self, number: int) -> int:
        """Return the largest number that a process gave, perhaps in the call before: nobody waits here."""
        return number

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, tensors on the CPU."""
        return [value]

    def share(self, value: Any) -> Any:
        """Return the main process's value, tensors on the CPU."""
        return value

    def align(self, *modules: nn.Module, parameters: bool = True) -> None:
        """Give all processes the main one's buffers, and parameters unless told otherwise."""

    def together(self) -> contextlib.AbstractContextManager[Any]:
        """End every process where one fails, and let one alone say why."""
        return _NOTHING


def held(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: its part, where it is split."""
    # Told by what it can do: importing the class would cost a lone process time.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def processes_of(config: Config) -> Processes:
    """Return the processes that a launcher started this one among."""
    if process_count() == 1:
        return Processes(config)
    # Slow to import, and of use to nobody else.
    if config.distributed.strategy == FSDP:
        from kdcore.engine.sharded import Sharded as Several
    elif config.distributed.strategy == DEEPSPEED:
        from kdcore.engine.deepspeed import Partitioned as Several  # type: ignore[assignment]
    else:
        from kdcore.engine.several import Accelerated as Several  # type: ignore[assignment]

    try:
        return Several(config)
    except KdcoreError as error:
        if is_first_here():
            raise
        # The first process of this machine has met it too, and says so.
        raise EndedElsewhereError(process_rank()) from error
