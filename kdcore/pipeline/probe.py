"""What the probe may not leave behind: modes, buffers, gradients and generators are put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from kdcore.pipeline.randomness import forked_generators


class Keeper:
    """Remembers the state of modules, as each is about to run for the first time, and restores it."""

    def __init__(self) -> None:
        self._modes: list[tuple[nn.Module, bool]] = []
        self._buffers: list[tuple[nn.Module, str, Tensor | None]] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []

    def keep(self, module: nn.Module) -> None:
        """Remember the modes, buffers and gradients of a module tree."""
        for each in module.modules():
            self._modes.append((each, each.training))
            for name, buffer in each._buffers.items():
                self._buffers.append((each, name, None if buffer is None else buffer.detach().clone()))
        for parameter in module.parameters():
            self._gradients.append((parameter, parameter.grad))
            parameter.grad = None

    def restore(self) -> None:
        """Put everything back."""
        for module, training in self._modes:
            module.training = training
        with torch.no_grad():
            for module, name, value in self._buffers:
                current = module._buffers.get(name)
                # In place where possible: an alias of the buffer must see the old value too.
                if current is not None and value is not None and current.shape == value.shape:
                    current.copy_(value)
                else:
                    module._buffers[name] = value
        for parameter, gradient in self._gradients:
            parameter.grad = gradient


@contextlib.contextmanager
def undone(modules: Iterable[nn.Module], seed: int) -> Iterator[Keeper]:
    """Run a block whose effects on `modules` and on the random generators are undone."""
    keeper = Keeper()
    with forked_generators(seed):
        try:
            for module in modules:
                keeper.keep(module)
            yield keeper
        finally:
            keeper.restore()
