"""A model or adapter in the pipeline: how it is called, what is read off it, and how far it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcore.address import Address, What
from kdcore.config.config import Argument, addresses_in
from kdcore.contracts import Extracted
from kdcore.errors import AddressError, KdcoreError, Place, WiringError, suggestion
from kdcore.pipeline.capture import Capture, Event, Slot, StopForward, changed_in_place, find_module
from kdcore.pipeline.diagnosis import describe, reason
from kdcore.pipeline.freeze import keep_frozen
from kdcore.pipeline.readers import Batch, Reader, bound_reader, is_captured
from kdcore.pipeline.select import select
from kdcore.pipeline.versions import Versions, changed, versions

if TYPE_CHECKING:
    from kdcore.pipeline.cached import Cached

Extractor = Callable[[Any, Batch], Extracted]


class Node:
    """One module of the pipeline and the results of its latest pass."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        args: Iterable[Argument] = (),
        kwargs: Mapping[str, Argument | list[Address]] | None = None,
        extractor: Extractor | None = None,
        frozen: bool,
        clone_captures: bool = False,
        place: Place = Place(),
    ) -> None:
        self.name = name
        self.module = module
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        self.extractor = extractor
        self.frozen = frozen
        self.clone_captures = clone_captures
        self.place = place
        self.capture = Capture()
        self.always_full = False
        self._compiled_here = False
        self.raw: Any = None
        self.extracted: Extracted | None = None
        self.cached: Cached | None = None
        self._versions: Versions = []
        self._arguments: list[Reader] = []
        self._keywords: dict[str, Reader] = {}
        self._frozen_modules = list(module.modules()) if frozen else []

    def needs(self) -> set[str]:
        """Return the names of the nodes that this one is fed by."""
        return {address.name for address in self.addresses() if not address.is_batch}

    def addresses(self) -> list[Address]:
        """Return the addresses that this node is called with."""
        return addresses_in([*self.args, *self.kwargs.values()])

    @property
    def compiled(self) -> bool:
        """Whether a part of the module is compiled; such a pass cannot stop early."""
        return any(
            getattr(each, "_compiled_call_impl", None) is not None or hasattr(each, "_orig_mod")
            for each in self.module.modules()
        )

    def compile(self) -> None:
        """Compile the module until `release`, unless a part of it is compiled already."""
        if not self.compiled:
            self.module.compile()
            self._compiled_here = True

    def release(self) -> bool:
        """Take the hooks off and leave the module as it came; returns whether it was compiled here."""
        self.capture.remove()
        compiled_here, self._compiled_here = self._compiled_here, False
        if compiled_here:
            # torch has no way back of its own; this is all that `compile` sets.
            self.module._compiled_call_impl = None
        return compiled_here

    def connect(self, readers: Mapping[Address, Reader]) -> None:
        """Resolve the call's addresses, once."""
        self._arguments = [bound_reader(each, readers) for each in self.args]
        self._keywords = {key: bound_reader(each, readers) for key, each in self.kwargs.items()}

    def run(self, batch: Batch, stop: Event | None = None) -> None:
        """Run the module on what its addresses yield, at most as far as `stop`; or read what a cache has of that."""
        if self.cached is None:
            self.compute(batch, stop)
        else:
            self.cached.run(batch, stop)

    def compute(self, batch: Batch, stop: Event | None = None) -> None:
        """Run the module, whatever a cache has."""
        args = [read(batch) for read in self._arguments]
        kwargs = {key: read(batch) for key, read in self._keywords.items()} if self._keywords else {}
        if self.frozen:
            keep_frozen(self._frozen_modules)
            # It still passes gradients on to what feeds it (a teacher's head on student features).
            if not requires_grad(args) and not (kwargs and requires_grad(kwargs.values())):
                with torch.no_grad():
                    self._call(args, kwargs, batch, stop)
                return
        self._call(args, kwargs, batch, stop)

    def _call(self, args: list[Any], kwargs: dict[str, Any], batch: Batch, stop: Event | None) -> None:
        if not self.capture.slots:
            self.raw = self.module(*args, **kwargs)
        elif not self._captured(args, kwargs, stop):
            return
        if self.extractor is not None:
            self.extracted = self._extract(self.extractor, batch)
            self._versions = versions(self.extracted.value)

    def _captured(self, args: list[Any], kwargs: dict[str, Any], stop: Event | None) -> bool:
        """Call the module with the hooks on; returns whether it ran to its end."""
        self.capture.begin(stop)
        try:
            self.raw = self.module(*args, **kwargs)
        except StopForward:
            return False
        finally:
            self.capture.end()
        return True

    def _extract(self, extractor: Extractor, batch: Batch) -> Extracted:
        try:
            extracted = extractor(self.raw, batch)
        except KdcoreError:
            raise
        except Exception as error:  # an extractor may fail in any way; the cause is chained and named
            raise WiringError(
                f"the output of {self.name!r} ({describe(self.raw)}) cannot be read: {reason(error)}",
                place=self.place,
                repair=f"choose another output: for {self.name!r}",
            ) from error
        if not isinstance(extracted, Extracted):
            raise WiringError(
                f"the output extractor of {self.name!r} returned {describe(extracted)}, not an Extracted",
                place=self.place,
                repair="an extractor returns kdcore.contracts.Extracted(value, named, losses)",
            )
        return extracted

    def clear(self) -> None:
        """Let go of every result."""
        self.raw = self.extracted = None
        self._versions = []
        if self.capture.slots:
            self.capture.clear()

    def restore(self, extracted: Extracted, raw: Any, captured: Mapping[Address, Any]) -> None:
        """Take these as the results of a pass that did not take place."""
        self.clear()
        self.extracted, self.raw = extracted, raw
        self._versions = versions(extracted.value)
        for address, value in captured.items():
            self.capture.slots[address].restore(value)

    def peek(self, address: Address, batch: Batch) -> Any:
        """Return what an address yields for its shape, whatever became of the values."""
        slot = self.capture.slots.get(address)
        return slot.peek() if slot is not None else self.reader(address)(batch)

    def reader(self, address: Address) -> Reader:
        """Return a function that reads `address` after a pass; raises AddressError for a wrong one."""
        if address.what is What.MODULE:
            module = find_module(self.module, address)
            return lambda batch: module
        if is_captured(address):
            slot = self.capture.add(self.module, address, clone=self.clone_captures)
            return _slot_reader(slot)
        if address.call is not None:
            raise AddressError(address, "a whole model runs once, so its output takes no call number")
        if address.what is What.RAW or self.extractor is None:
            return lambda batch: select(self.raw, address.keys, address)
        # Not a lambda, whose frame would cost as much as reading does, in every step.
        return self._named_reader(address) if address.keys else functools.partial(self._value, address)

    def _value(self, address: Address, batch: Batch) -> Tensor:
        assert self.extracted is not None
        value = self.extracted.value
        if value is None:
            raise AddressError(
                address,
                f"the output extractor of {self.name!r} found no tensor that is the output",
                repair=f"address {self.name}@raw#<key>, or give the model another output:",
            )
        if changed(self._versions):
            raise changed_in_place(address)
        return value

    def _named_reader(self, address: Address) -> Reader:
        first, rest = str(address.keys[0]), address.keys[1:]

        def read(batch: Batch) -> Any:
            assert self.extracted is not None
            named = self.extracted.named
            if first not in named:
                raise AddressError(
                    address,
                    f"the output of {self.name!r} has no tensor named {first!r}",
                    repair=suggestion(first, named, noun="names")
                    + f"; {self.name}@raw#{first} reads the model's own output",
                )
            return select(named[first], rest, address)

        return read


def _slot_reader(slot: Slot) -> Reader:
    return lambda batch: slot.read()


def requires_grad(values: Iterable[Any]) -> bool:
    """Whether a gradient can flow into any of `values`: tensors, modules, or lists and dicts of them."""
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, Mapping):
            if requires_grad(value.values()):
                return True
        elif isinstance(value, nn.Module):
            if requires_grad(value.parameters()):
                return True
        elif isinstance(value, (list, tuple)) and requires_grad(value):
            return True
    return False
