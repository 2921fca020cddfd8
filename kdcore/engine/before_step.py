"""What a step may change besides weights: buffers and extra state, as they were before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.engine.blame import are_finite
from kdcore.pipeline.versions import leaves

# A larger buffer, such as a memory bank, is not copied in every step.
LARGEST_KEPT = 2**16


class BeforeStep:
    """Keeps the buffers of a module tree, and what its modules return as extra state, to put them back.

    A module may change a buffer in place, put another tensor in its place, or take it away; the tensor that was there
    comes back, with the values it had. A large one is not copied: it comes back unless it was changed in place.
    """

    def __init__(self, root: nn.Module) -> None:
        self._buffers = [
            _Buffer(module, f"{path}.{name}" if path else name, name)
            for path, module in root.named_modules()
            for name in module._buffers
        ]
        self._extra = [_Extra(module) for module in root.modules() if _has_extra_state(module)]

    def keep(self) -> None:
        """Take in what there is now."""
        for each in self._buffers:
            tensor = each.buffers.get(each.name)
            if tensor is not each.tensor:
                each.take(tensor)
            elif each.copy is not None:
                each.copy.copy_(tensor)  # type: ignore[arg-type]
        for extra in self._extra:
            extra.keep()

    @torch.no_grad()
    def put_back(self) -> None:
        """Bring back what there was."""
        for each in self._buffers:
            each.put_back()
        for extra in self._extra:
            extra.put_back()

    def unsound(self) -> Iterator[str]:
        """Yield the large buffers that are not finite now and were when this began."""
        for each in self._buffers:
            if each.copy is None and each.watched and not are_finite([each.tensor]):
                yield each.title


class _Buffer:
    """One buffer, by its module's name for it."""

    __slots__ = ("buffers", "copy", "name", "tensor", "title", "watched")

    def __init__(self, module: nn.Module, title: str, name: str) -> None:
        self.buffers = module._buffers
        self.title = title
        self.name = name
        self.take(self.buffers[name])
        # An attention mask may be infinite from the start.
        self.watched = self.copy is not None or are_finite([self.tensor])

    def take(self, tensor: Tensor | None) -> None:
        self.tensor = tensor
        self.copy = tensor.detach().clone() if tensor is not None and tensor.numel() <= LARGEST_KEPT else None

    def put_back(self) -> None:
        if self.tensor is not None and self.copy is not None:
            if self.tensor.shape == self.copy.shape:
                self.tensor.copy_(self.copy)
            else:
                self.tensor = self.copy.clone()
        self.buffers[self.name] = self.tensor


class _Extra:
    """What one module returns as extra state; none of it where its tensors are large."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.state: Any = None
        self.kept = False

    def keep(self) -> None:
        state = self.module.get_extra_state()
        self.kept = sum(each.numel() for each in leaves(state)) <= LARGEST_KEPT
        self.state = copy.deepcopy(state) if self.kept else None

    def put_back(self) -> None:
        if self.kept:
            # A copy once more: a module may go on with the very object.
            self.module.set_extra_state(copy.deepcopy(self.state))


def _has_extra_state(module: nn.Module) -> bool:
    kind = type(module)
    return (
        kind.get_extra_state is not nn.Module.get_extra_state and kind.set_extra_state is not nn.Module.set_extra_state
    )
