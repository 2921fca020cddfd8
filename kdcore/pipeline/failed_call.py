"""The error for a model or adapter that raised in its forward."""

from __future__ import annotations

import inspect

from kdcore.errors import KdcoreError, WiringError
from kdcore.pipeline.diagnosis import describe, of_device, reason
from kdcore.pipeline.node import Node
from kdcore.pipeline.readers import Batch

_COMPILER = (
    "the model is compiled, which needs a C++ compiler (on a GPU, Triton): compile: false shows whether it is that"
)


def failed_call(node: Node, batch: Batch, error: Exception) -> KdcoreError:
    """Return the error for a model or adapter that raised in its forward."""
    if isinstance(error, KdcoreError):
        return error.at(node.place)
    if of_device(error):
        raise error
    bound = {str(each): each for each in node.addresses()}
    entries = describe({key: value for key, value in batch.items() if f"batch:{key}" in bound})
    return WiringError(
        f"{node.name!r} ({type(node.module).__name__}) failed in its forward on {', '.join(bound) or 'no arguments'} "
        f"with batch entries {entries}: {reason(error)}",
        place=node.place,
        repair=_wrong_call(node, batch)
        or (_COMPILER if node.compiled else "")
        or "check the inputs: it is called with, the shapes the data set yields, and its params",
    )


def _wrong_call(node: Node, batch: Batch) -> str:
    """Return how the module wants to be called, if the config calls it otherwise."""
    try:
        signature = inspect.signature(node.module.forward)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*node.args, **node.kwargs)
    except TypeError:
        entries = ", ".join(f"batch:{key}" for key in batch)
        bare = signature.replace(
            parameters=[each.replace(annotation=each.empty) for each in signature.parameters.values()],
            return_annotation=signature.empty,
        )
        return f"its forward is called as {bare}: bind that with inputs:, a list or a map; there are {entries}"
    return ""
