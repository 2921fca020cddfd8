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

from kdcore.engine.processes import Forward
from kdcore.engine.several import Accelerated
from kdcore.errors import RunError
from kdcore.pipeline.blocks import Blocks
from kdcore.pipeline.objective import Objective


class Sharded(Accelerated):
    """The processes that a launcher started together; each holds a part of parameters, gradients and optimizer."""

    sharded = True
    alike = False

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

    def wrap(
        self,
        objective: Objective,
        *,
        find_unused: bool,
        optimizer: torch.optim.Optimizer,
        clip_grad_norm: float | None,
    ) -> Forward:
        """Return the Objective: sharding has given it hooks that average gradients."""
        if find_unused:
            reduce_unused: Any = getattr(objective, "set_reduce_scatter_unused_params", None)
            if reduce_unused is None:
                raise RunError(
                    f"find_unused: true cannot be combined with strategy: fsdp in torch {torch.__version__}",
                    repair="install a newer torch, or write find_unused: false",
                )
            reduce_unused(True)
        return objective

    def unwrap(self) -> None:
        """Nothing is wrapped; who needs whole modules builds them anew."""

    @contextlib.contextmanager
    def apart(self, forward: Forward) -> Iterator[None]:
        """Keep the gradients of passes within to each process; the next pass outside averages all."""
        root = cast("FSDPModule", forward)
        root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            root.set_requires_gradient_sync(True)

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

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Go on from the state of an optimizer of whole parameters, split as they are."""
        parameters = dict(enumerate(each for group in optimizer.param_groups for each in group["params"]))
        by_index = {
            index: {key: self.part(value, parameters.get(index)) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": by_index})

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
