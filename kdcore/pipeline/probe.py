"""The probe: one pass that notes what ran, and leaves modes, buffers, gradients and generators as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from kdcore.address import What
from kdcore.errors import AddressError, Place, WiringError
from kdcore.pipeline.capture import Event, find_module
from kdcore.pipeline.failed_call import failed_call
from kdcore.pipeline.node import Node
from kdcore.pipeline.randomness import forked_generators
from kdcore.pipeline.readers import Batch
from kdcore.pipeline.versions import leaves


class Keeper:
    """Remembers the state of modules, as each is about to run for the first time, and restores it."""

    def __init__(self) -> None:
        self._modes: list[tuple[nn.Module, bool]] = []
        self._buffers: list[tuple[nn.Module, str, Tensor]] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []

    def keep(self, module: nn.Module) -> None:
        """Remember the modes, buffers and gradients of a module tree."""
        for each in module.modules():
            self._modes.append((each, each.training))
            for name, buffer in each.named_buffers(recurse=False):
                self._buffers.append((each, name, buffer.detach().clone()))
        for parameter in module.parameters():
            self._gradients.append((parameter, parameter.grad))
            parameter.grad = None

    def restore(self) -> None:
        """Put everything back, the latest memory first, so that the earliest wins."""
        for module, training in reversed(self._modes):
            module.training = training
        with torch.no_grad():
            for module, name, value in reversed(self._buffers):
                current = getattr(module, name)
                # In place where possible: an alias of the buffer must see the old value too.
                if current is not None and current.shape == value.shape:
                    current.copy_(value)
                else:
                    setattr(module, name, value)
        for parameter, gradient in reversed(self._gradients):
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


class Tracer:
    """Runs nodes to their end and notes which watched modules ran, in which order."""

    def __init__(self, batch: Batch, places: Mapping[str, Place]) -> None:
        self.batch = batch
        self.places = places
        self.traces: dict[str, list[Event]] = {}

    def run(self, node: Node, *, required: bool = True) -> None:
        """Run one node; what it needs must have run.

        Unless `required`, what this mode of the models does not yield is left open, for the reader to miss.
        """
        trace: list[Event] = []
        node.capture.trace = trace
        try:
            with torch.enable_grad() if required else torch.no_grad():
                node.run(self.batch)
            if required:
                node.capture.check_calls(trace, "eval mode" if node.frozen else "training mode")
        except AddressError as error:
            if required:
                raise error.at(self.places.get(error.address, node.place)) from None
        except Exception as error:  # a model may fail in any way; the cause is chained and named
            raise failed_call(node, self.batch, error) from error
        finally:
            node.capture.trace = None
        self.traces[node.name] = trace
        if required and not node.frozen:
            self._check_attached(node)

    def _check_attached(self, node: Node) -> None:
        """Raise WiringError where a trained module's output was computed without gradient."""
        for address, slot in node.capture.slots.items():
            module = find_module(node.module, address)
            floating = [each for each in leaves(slot.peek()) if each.is_floating_point()]
            learns = address.what is What.OUTPUT and any(each.requires_grad for each in module.parameters())
            if learns and floating and not any(each.requires_grad for each in floating):
                raise WiringError(
                    f"{address}: this trained module's output carries no gradient, so a loss on it teaches nothing",
                    place=self.places.get(str(address), node.place),
                    repair="it was computed under no_grad, detached, or inside a reentrant checkpoint "
                    "(use_reentrant=False keeps the gradient)",
                )
