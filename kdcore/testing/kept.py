"""What a module holds from call to call: the tensors in its buffers and attributes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Their entries may be replaced by others.
MUTABLE = (MutableMapping, list, deque)


@dataclass(frozen=True)
class Kept:
    """A tensor that is part of a graph, and where a module holds it."""

    what: str
    name: str
    tensor: Tensor
    replace: Callable[[Tensor], None]


def graphs(built: nn.Module) -> Iterator[Kept]:
    """Yield every tensor with a graph that a module's buffers and attributes hold, in lists, dicts and tuples too.

    What torch's own modules hold is torch's affair: its weight_norm computes a weight before every call.
    """
    for prefix, module in built.named_modules():
        if not type(module).__module__.startswith("torch."):
            start = f"{prefix}." if prefix else ""
            yield from _within(module._buffers, f"{start}{{}}", "buffer")
            own = {name: value for name, value in vars(module).items() if name not in ("_buffers", "_parameters")}
            yield from _within(own, f"{start}{{}}", "attribute", into=vars(module))


def detach(built: nn.Module) -> None:
    """Detach every tensor that a module holds, where it can be replaced."""
    for each in list(graphs(built)):
        each.replace(each.tensor.detach())


def _within(held: Any, form: str, what: str, into: Any = None) -> Iterator[Kept]:
    """Yield what a container holds; `form` makes the name of an entry, and entries are replaced in `into`."""
    into = held if into is None else into
    entries = held.items() if isinstance(held, MutableMapping) else enumerate(held)
    for key, value in list(entries):
        name = form.format(key)
        if isinstance(value, Tensor):
            if value.grad_fn is not None:
                yield Kept(what, name, value, _replacing(into, key))
        elif isinstance(value, (*MUTABLE, tuple)):
            yield from _within(value, f"{name.replace('{', '{{').replace('}', '}}')}[{{!r}}]", what)


def _replacing(into: Any, key: Any) -> Callable[[Tensor], None]:
    def replace(tensor: Tensor) -> None:
        if isinstance(into, MUTABLE):
            into[key] = tensor

    return replace
