"""Functions that read what addresses yield, off a batch or after the passes of models and adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kdcore.address import Address, What
from kdcore.config.config import Argument, Constant
from kdcore.errors import AddressError, Place, suggestion
from kdcore.pipeline.select import select

if TYPE_CHECKING:
    from kdcore.pipeline.node import Node

Batch = Mapping[str, Any]
Reader = Callable[[Batch], Any]


def is_captured(address: Address) -> bool:
    """Whether an address of a node is read by a hook (not off its output)."""
    return address.what is What.INPUT or (bool(address.path) and address.what is What.OUTPUT)


def batch_reader(address: Address) -> Reader:
    """Return a function that reads an entry of the batch."""
    entry, keys = address.path, address.keys

    def read(batch: Batch) -> Any:
        try:
            value = batch[entry]
        except KeyError:
            raise AddressError(
                address,
                f"the batch has no entry {entry!r}",
                repair=suggestion(entry, map(str, batch), noun="entries of the batch"),
            ) from None
        return select(value, keys, address) if keys else value

    return read


def make_readers(
    nodes: Mapping[str, Node], addresses: Iterable[Address], places: Mapping[str, Place]
) -> dict[Address, Reader]:
    """Return a reader per address; a wrong address raises with the place it stands at."""
    readers: dict[Address, Reader] = {}
    for address in addresses:
        if address not in readers:
            try:
                readers[address] = batch_reader(address) if address.is_batch else nodes[address.name].reader(address)
            except AddressError as error:
                raise error.at(places.get(str(address), Place())) from None
    return readers


def bound_reader(bound: Argument | list[Address], readers: Mapping[Address, Reader]) -> Reader:
    """Return a function that reads what an input or argument is bound to."""
    if isinstance(bound, Constant):
        value = bound.value
        return lambda batch: value
    if isinstance(bound, list):
        several = [readers[each] for each in bound]
        return lambda batch: [read(batch) for read in several]
    return readers[bound]
