"""A frozen model's pass that reads what was stored of an earlier one, and runs the model for what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor

from kdcore.address import Address, What
from kdcore.contracts import Extracted
from kdcore.errors import Place, WiringError
from kdcore.pipeline.capture import Event
from kdcore.pipeline.diagnosis import describe
from kdcore.pipeline.node import Node
from kdcore.pipeline.readers import Batch, is_captured

HOST_INDEX = "index@host"
"""The entry that keeps the indices of a batch where a cache can read them, without waiting for a device."""


class Cache(Protocol):
    """What is stored of one model on one data set, by address and sample index."""

    def read(self, index: Tensor) -> Mapping[Address, Tensor] | None:
        """Return the stored rows of these samples by address, None unless all are there."""

    def store(self, index: Tensor, values: Mapping[Address, Tensor]) -> Mapping[Address, Tensor]:
        """Store what is missing of these samples, and return the rows of all of them as they are stored."""


class Cached:
    """Lets a node read from a cache what `addresses` yield.

    Where a sample of a batch is missing, the model runs on the whole batch, as it would without a
    cache. What a step sees is always what is stored, so it does not depend on what was there.
    """

    def __init__(self, node: Node, addresses: Iterable[Address], cache: Cache, rows_per_sample: int) -> None:
        self.node = node
        self.cache = cache
        self.rows_per_sample = rows_per_sample
        self.readers = {address: node.reader(address) for address in addresses}

    def run(self, batch: Batch, stop: Event | None) -> None:
        """Give the node its results, from the cache or from the model."""
        index = batch[HOST_INDEX] if HOST_INDEX in batch else batch["index"].cpu()
        values = self.cache.read(index)
        if values is None:
            self.node.compute(batch, stop)
            computed = {address: read(batch) for address, read in self.readers.items()}
            rows = len(index) * self.rows_per_sample
            values = self.cache.store(index, {key: checked(value, key, rows) for key, value in computed.items()})
        _restore(self.node, values)


def checked(value: Any, address: Address, rows: int, place: Place = Place()) -> Tensor:
    """Return `value` if a cache can store it by sample; raises WiringError saying why not."""
    if isinstance(value, Tensor) and value.dim() and len(value) == rows and value.numel():
        return value
    is_tensor = isinstance(value, Tensor)
    raise WiringError(
        f"{address} cannot be cached: it yields {describe(value)}, not a tensor with one row for each of the "
        f"{rows} rows of the batch",
        place=place,
        repair="bind the loss to a tensor that has the batch first, or write cache: false"
        if is_tensor
        else "address the tensor in it by #key, or write cache: false",
    )


def _restore(node: Node, values: Mapping[Address, Tensor]) -> None:
    """Make stored values the results of a node, such that the readers made for its passes find them."""
    output: Tensor | None = None
    named: dict[str, Any] = {}
    raw: Any = {}
    captured = {}
    for address, value in values.items():
        if is_captured(address):
            captured[address] = value
        elif not address.keys:
            output, raw = (value, raw) if address.what is What.OUTPUT else (output, value)
        elif address.what is What.RAW:
            _put(raw, address, value)
        else:
            _put(named, address, value)
    node.restore(Extracted(output, named), raw, captured)


def _put(tree: dict[str, Any], address: Address, value: Tensor) -> None:
    """Hang a value where its keys lead; a reader that looks for an element finds it under the number's text."""
    *inner, last = map(str, address.keys)
    for key in inner:
        tree = tree.setdefault(key, {})
    tree[last] = value
