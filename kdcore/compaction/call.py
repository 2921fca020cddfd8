"""One call of a model: its arguments, on the CPU, as many rows as are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Call:
    """Positional and keyword arguments of a forward pass."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, inputs: Any) -> Call:
        """Read example inputs: a mapping is keywords, a tuple or list positions, anything else the only argument."""
        if isinstance(inputs, Call):
            return inputs
        if isinstance(inputs, Mapping):
            return cls((), dict(inputs))
        return cls(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,))

    def run(self, model: nn.Module) -> Any:
        """Return the model's output."""
        with torch.no_grad():
            return model(*self.args, **(self.kwargs or {}))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, dict(self.kwargs or {})))
        return Call(args, kwargs)

    def rows(self, count: int) -> Call:
        """Return the call with the first rows of its batch; what has another length is no batch."""
        sizes = [each.shape[0] for each in pytree.tree_leaves((self.args, self.kwargs)) if _batched(each)]
        size = max(set(sizes), key=sizes.count, default=0)
        return self.mapped(lambda each: each[:count] if _batched(each) and each.shape[0] == size else each)


def calls_of(inputs: Sequence[Any]) -> list[Call]:
    """Read several example inputs."""
    return [Call.of(each) for each in inputs]


def _batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0
