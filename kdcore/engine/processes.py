"""What the engine asks of the processes that run it: here a lone one, at no cost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.config.config import Config, StageConfig
from kdcore.config.distributed import DEEPSPEED, FSDP
from kdcore.engine.device import choose_device
from kdcore.engine.learner import Learner
from kdcore.errors import EndedElsewhereError, KdcoreError
from kdcore.launcher import is_first_here, process_count, process_rank
from kdcore.pipeline.blocks import Blocks
from kdcore.pipeline.objective import Objective

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
    _learner: type[Learner] = Learner

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

    def learner(self, objective: Objective, optimizer: torch.optim.Optimizer, stage: StageConfig) -> Learner:
        """Return what trains the Objective of a stage in these processes."""
        return self._learner(self, objective, optimizer, stage)

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
