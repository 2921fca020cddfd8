"""Several processes that split what is trained among them, by torch's fully_shard (FSDP2)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from kdcore.config.config import StageConfig
from kdcore.engine.learner import Learner
from kdcore.engine.processes import Processes, held
from kdcore.engine.several import Accelerated
from kdcore.errors import RunError
from kdcore.pipeline.blocks import Blocks
from kdcore.pipeline.objective import Objective


class ShardedLearner(Learner):
    """The Objective and the optimizer of a stage; sharding has given the Objective hooks that average gradients."""

    def __init__(
        self, processes: Processes, objective: Objective, optimizer: torch.optim.Optimizer, stage: StageConfig
    ) -> None:
        super().__init__(processes, objective, optimizer, stage)
        self._processes = processes
        self._root = cast("FSDPModule", objective)
        if stage.find_unused:
            reduce_unused: Any = getattr(objective, "set_reduce_scatter_unused_params", None)
            if reduce_unused is None:
                raise RunError(
                    f"find_unused: true cannot be combined with strategy: fsdp in torch {torch.__version__}",
                    repair="install a newer torch, or write find_unused: false",
                )
            reduce_unused(True)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Keep the gradients of passes within to each process; the next pass outside averages all."""
        self._root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._root.set_requires_gradient_sync(True)

    def gradients(self) -> list[Tensor]:
        """Return this process's part of the averaged gradients."""
        return [held(each) for each in super().gradients()]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that an optimizer of the whole parameters would have, in the main process."""
        state: dict[str, Any] = self._processes.whole(super().state_dict())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of an optimizer of whole parameters, split as they are."""
        parameters = dict(enumerate(each for group in self.optimizer.param_groups for each in group["params"]))
        by_index = {
            index: {key: self._processes.part(value, parameters.get(index)) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        super().load_state_dict({**state, "state": by_index})


class Sharded(Accelerated):
    """The processes that a launcher started together; each holds a part of parameters, gradients and optimizer."""

    sharded = True
    alike = False
    _learner = ShardedLearner

    def shard(self, objective: Objective, blocks: Blocks) -> None:
        """Split what is trained, blocks first; its root is the Objective, so losses and adapters are split too."""
        # DistributedDataParallel does so too: a factory may have drawn other weights in each process.
        self.align(objective)
        mesh, whole = self._mesh(), list(objective.parameters())
        for module in blocks.modules.values():
            fully_shard(module, mesh=mesh)
        blocks.put_watches_outside()
        # What the root holds is needed from the start of a pass to the end of its gradient.
        fully_shard(objective, mesh=mesh, reshard_after_forward=False)
        for parameter in whole:
            # Its shards took its place in the modules; whoever still refers to it may not keep its memory.
            parameter.data = parameter.data.new_empty(0)

    @contextlib.contextmanager
    def gathered(self, objective: Objective) -> Iterator[None]:
        """Put together what is no part of a block, so that parts of the Objective can be called by themselves."""
        root = cast("FSDPModule", objective)
        root.unshard()
        try:
            yield
        finally:
            root.reshard()

    def whole(self, state: Any, *, everywhere: bool = False) -> Any:
        """Return a state with split tensors put together, on the CPU of the main process or of all."""

        def put_together(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, DTensor):
                return tensor
            full = tensor.full_tensor()
            return full.cpu() if self.main or everywhere else full.new_empty(0)

        return _mapped(state, put_together)

    def part(self, value: Any, like: Any) -> Any:
        """Return this process's part of a tensor, if `like` is split; anything else as it is."""
        if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
            return value
        local = value.to(self.device(), like.dtype)
        return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)

    @functools.cache  # noqa: B019 - there is one of these in a run
    def _mesh(self) -> DeviceMesh:
        return init_device_mesh(self.device().type, (self.count,))


def _mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {key: _mapped(value, change) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_mapped(value, change) for value in state)
    return state
