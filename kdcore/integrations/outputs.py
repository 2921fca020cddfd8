"""What a model returns within somebody else's pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


@contextlib.contextmanager
def outputs_of(model: nn.Module, *, wanted: bool) -> Iterator[list[Any]]:
    """Collect what a model returns in passes that run to their end, if that is wanted."""
    outputs: list[Any] = []
    if not wanted:
        # A hook that comes and goes in every step would have a compiled model compiled again.
        yield outputs
        return
    handle = model.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def as_mapping(output: Any) -> Mapping[Any, Any]:
    """Return an output by name or position; a bare tensor is the logits."""
    if isinstance(output, Mapping):
        return output
    return dict(enumerate(output)) if isinstance(output, (list, tuple)) else {"logits": output}
