"""Memory that is not enough: what held it, and what would help."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from torch.optim import Optimizer

from kdcore.config.config import StageConfig
from kdcore.engine.processes import held
from kdcore.errors import RunError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.diagnosis import of_memory


class Memory:
    """A stage's account of memory: where it runs out inside the `with` block, a RunError says what held it.

    Set `optimizer` once there is one.
    """

    def __init__(self, assembly: Assembly, stage: StageConfig) -> None:
        self.assembly = assembly
        self.stage = stage
        self.optimizer: Optimizer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and of_memory(error):
            asked = str(error).split("\n")[0].split(" GPU ")[0].rpartition("DefaultCPUAllocator: ")[2].strip(" .")
            raise RunError(
                f"out of memory in stage {self.stage.name!r}: {asked}; besides activations, {self._held()}",
                place=self.stage.place,
                repair="; ".join(self._remedies()),
            ) from error

    def _held(self) -> str:
        """Return what holds how much, the largest first."""
        modules = {**self.assembly.models, **self.assembly.adapters}
        held = {name: sum(map(_bytes, module.state_dict().values())) for name, module in modules.items()}
        parameters = [each for module in modules.values() for each in module.parameters()]
        held["gradients"] = sum(_bytes(each.grad) for each in parameters)
        states = self.optimizer.state.values() if self.optimizer is not None else ()
        held["the optimizer's state"] = sum(_bytes(value) for state in states for value in state.values())
        listed = sorted(((size, name) for name, size in held.items() if size), reverse=True)
        return ", ".join(f"{name} {'hold' if name == 'gradients' else 'holds'} {_shown(size)}" for size, name in listed)

    def _remedies(self) -> Iterable[str]:
        yield "lower batch_size, and raise accumulate as much, which keeps the step as it is"
        read = {address.name for term in self.stage.terms for address in term.addresses}
        models = sorted((read & self.assembly.models.keys()) - set(self.stage.train))
        if models:
            yield f"write cache: true for {' and '.join(models)}, which then need not run in every step"
        if self.stage.precision == "float32":
            yield "write precision: bfloat16, which halves most activations"


def _bytes(value: Any) -> int:
    return held(value).numel() * value.element_size() if isinstance(value, Tensor) else 0


def _shown(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.3g} MiB"
