"""The error for a model or adapter that raised in its forward."""

from __future__ import annotations

import inspect

from kdcore.errors import KdcoreError, WiringError
from kdcore.pipeline.diagnosis import MORE_SAMPLES, describe, of_device, reason
from kdcore.pipeline.lookup import failed_lookup
from kdcore.pipeline.node import Node
from kdcore.pipeline.readers import Batch
from kdcore.shapes import FewSamplesError

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
    entries = {key: value for key, value in batch.items() if f"batch:{key}" in bound}
    shown = f" with batch entries {describe(entries)}" if entries else ""
    return WiringError(
        f"{node.name!r} ({type(node.module).__name__}) failed in its forward on "
        f"{', '.join(bound) or 'no arguments'}{shown}: {reason(error)}",
        place=node.place,
        repair=_too_few_rows(node, batch, error)
        or _wrong_call(node, batch)
        or (MORE_SAMPLES if isinstance(error, FewSamplesError) else "")
        or (_COMPILER if node.compiled else "")
        or "check the inputs: it is called with, the shapes the data set yields, and its params",
    )


def _too_few_rows(node: Node, batch: Batch, error: Exception) -> str:
    """Return what mends a lookup of numbers that an embedding of the module has not."""
    lookup = failed_lookup(error)
    if lookup is None:
        return ""
    name, entry = lookup.name_in(node.module), lookup.source(batch)
    what = f"{node.name}:{name}" if name else "it"
    if lookup.low < 0:
        whose = f"batch:{entry} holds" if entry else "it was given"
        return f"{whose} numbers below 0, which mark places to leave out: replace them for {what}, or bind other inputs"
    if entry:
        return (
            f"{what} is looked up with batch:{entry}: give the model a vocab_size of at least {lookup.high + 1} "
            "(num_embeddings of a module of your own), or read the data with the tokenizer that the model was made for"
        )
    return (
        f"{what} is looked up with numbers of the model's own, such as positions: give it at least {lookup.high + 1} "
        "rows, or shorten the samples"
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
