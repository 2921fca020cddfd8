"""Hooks that read addressed tensors out of a module's forward pass, and stop it when nothing more is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from kdcore.address import Address, What
from kdcore.errors import AddressError, suggestion
from kdcore.pipeline.select import select, select_argument
from kdcore.pipeline.versions import Versions, changed, cloned, versions


class StopForward(BaseException):
    """Raised by a hook after the last call that anybody looks at.

    A BaseException, so that a model that catches Exception in its forward cannot swallow it.
    """


class Slot:
    """One addressed value of a module: filled by a hook, read once the pass is over."""

    def __init__(self, address: Address, *, clone: bool) -> None:
        self.address = address
        self.clone = clone
        # A call counted from the end is known when the pass is over, so that many values are kept.
        self.depth = -address.call if address.call is not None and address.call < 0 else 1
        self._kept: deque[tuple[Any, Versions]] = deque(maxlen=self.depth)

    def wants(self, call: int) -> bool:
        """Whether the value of call number `call` may be the one addressed."""
        wanted = self.address.call
        return wanted is None or wanted < 0 or wanted == call

    def fill(self, value: Any) -> None:
        """Keep `value` and how often its tensors had been changed in place so far."""
        if self.clone:
            value = cloned(value)
        self._kept.append((value, versions(value)))

    def restore(self, value: Any) -> None:
        """Take `value` as the one addressed, of a pass that did not take place."""
        self._kept.extend([(value, versions(value))] * self.depth)

    def read(self) -> Any:
        """Return the value; raises AddressError if it is missing or was changed in place since."""
        value, seen = self._first()
        if changed(seen):
            raise changed_in_place(self.address)
        return value

    def peek(self) -> Any:
        """Return the value whatever became of it, for its shape."""
        return self._first()[0]

    def clear(self) -> None:
        """Let go of the value."""
        self._kept.clear()

    def _first(self) -> tuple[Any, Versions]:
        if len(self._kept) < self.depth:
            call = "" if self.address.call is None else f" a call number {self.address.call}"
            raise AddressError(
                self.address,
                f"the module never ran{call}",
                repair="address a module that runs in every pass",
            )
        return self._kept[0]


def changed_in_place(address: Address) -> AddressError:
    """Return the error for a captured tensor that is no longer what it was."""
    return AddressError(
        address,
        "the tensor, or one it shares memory with, was changed in place after it was captured, "
        "for example by ReLU(inplace)",
        repair="address the previous module (or the next one's @input), or set clone_captures: true "
        f"for the model {address.name!r}",
    )


class Watch:
    """The hook on one side of one module; a bound object, so that a deep copy has its own."""

    def __init__(self, capture: Capture, path: str, what: What) -> None:
        self.capture = capture
        self.path = path
        self.what = what
        self.slots: list[Slot] = []
        self.calls = 0

    def output(self, module: nn.Module, args: Any, output: Any) -> None:
        """See a module's output."""
        if self.capture.active:
            for slot in self.slots:
                if slot.wants(self.calls):
                    slot.fill(select(output, slot.address.keys, slot.address))
            self._called()

    def input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the arguments a module is called with."""
        if self.capture.active:
            for slot in self.slots:
                if slot.wants(self.calls):
                    slot.fill(select_argument(module, args, kwargs, slot.address.keys, slot.address))
            self._called()

    def _called(self) -> None:
        capture, count = self.capture, self.calls
        self.calls += 1
        if capture.trace is not None:
            capture.trace.append((self, count))
        if capture.stop is not None and capture.stop[0] is self and capture.stop[1] == count:
            raise StopForward


Event = tuple[Watch, int]


class Capture:
    """All watches of one module tree; active only inside a forward pass of the Objective."""

    def __init__(self) -> None:
        self.active = False
        self.stop: Event | None = None
        self.trace: list[Event] | None = None
        self.watches: dict[tuple[str, What], Watch] = {}
        self.slots: dict[Address, Slot] = {}
        self._handles: list[RemovableHandle] = []

    def add(self, root: nn.Module, address: Address, *, clone: bool) -> Slot:
        """Watch what `address` names; raises AddressError if there is no such module."""
        if address in self.slots:
            return self.slots[address]
        module = find_module(root, address)
        key = (address.path, address.what)
        if key not in self.watches:
            watch = self.watches[key] = Watch(self, *key)
            if address.what is What.INPUT:
                handle = module.register_forward_pre_hook(watch.input, with_kwargs=True)
            else:
                handle = module.register_forward_hook(watch.output)
            self._handles.append(handle)
        slot = self.slots[address] = Slot(address, clone=clone)
        self.watches[key].slots.append(slot)
        return slot

    def begin(self, stop: Event | None) -> None:
        """Start a pass that ends after the event `stop`."""
        for watch in self.watches.values():
            watch.calls = 0
        self.stop = stop
        self.active = True

    def end(self) -> None:
        """End a pass: from here on the hooks do nothing."""
        self.active = False

    def clear(self) -> None:
        """Let go of every captured value."""
        for slot in self.slots.values():
            slot.clear()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def check_calls(self, trace: list[Event], modes: str) -> None:
        """Raise AddressError where the traced pass makes an address ambiguous or empty."""
        for slot in self.slots.values():
            address = slot.address
            watch = self.watches[address.path, address.what]
            count = sum(1 for seen, _ in trace if seen is watch)
            if count == 0:
                raise AddressError(
                    address,
                    f"the module {address.path!r} exists but did not run in the forward pass ({modes})",
                    repair="address a module that runs; what is only a function has no address, "
                    "but the next module's @input has",
                )
            if address.call is None and count > 1:
                raise AddressError(
                    address,
                    f"the module {address.path!r} ran {count} times, so the address is ambiguous",
                    repair=f"say which call: @0 to @{count - 1}, or @-1 for the last",
                )
            if address.call is not None and not -count <= address.call < count:
                calls = f"calls are @0 to @{count - 1}, or @-1 for the last"
                raise AddressError(
                    address,
                    f"the module {address.path!r} ran {_times(count)}, there is no call {address.call}",
                    repair=calls if count > 1 else "leave the call number out",
                )

    def retain(self, addresses: Iterable[Address]) -> None:
        """Stop looking at everything but `addresses`, such as what only gave a shape."""
        kept = set(addresses)
        for address in self.slots.keys() - kept:
            slot = self.slots.pop(address)
            self.watches[address.path, address.what].slots.remove(slot)

    def last_event(self, trace: list[Event], addresses: Iterable[Address]) -> Event | None:
        """Return the last traced event that `addresses` need, or None if the pass must run to its end."""
        needed = set()
        for address in addresses:
            watch = self.watches[address.path, address.what]
            # How often a module runs is only known at the end, so the last call cannot end a pass.
            if address.call is not None and address.call < 0:
                return None
            needed.add((watch, address.call or 0))
        return next((event for event in reversed(trace) if event in needed), None)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def find_module(root: nn.Module, address: Address) -> nn.Module:
    """Return the submodule that an address names; raises AddressError with the nearest paths."""
    # A module that stands in two places has two names.
    modules: dict[str, nn.Module] = dict(root.named_modules(remove_duplicate=False))
    if address.path in modules:
        return modules[address.path]
    names = [name for name in modules if name]
    raise AddressError(
        address,
        f"{address.name!r} has no module {address.path!r}",
        repair=suggestion(address.path, names, noun=f"modules of {address.name!r}"),
    )


def hooks_of_captures(modules: Mapping[str, nn.Module]) -> list[tuple[nn.Module, str, int]]:
    """Return where watches hang in a module tree: module, hook dictionary, hook id."""
    found = []
    for module in modules.values():
        for attribute in ("_forward_hooks", "_forward_pre_hooks"):
            for key, hook in getattr(module, attribute).items():
                if isinstance(getattr(hook, "__self__", None), Watch):
                    found.append((module, attribute, key))
    return found


def strip_hooks(root: nn.Module) -> None:
    """Take every watch off a module tree, as for a copy that leaves the pipeline."""
    for module, attribute, key in hooks_of_captures(dict(root.named_modules())):
        getattr(module, attribute).pop(key)
        for companion in (
            "_forward_hooks_with_kwargs",
            "_forward_hooks_always_called",
            "_forward_pre_hooks_with_kwargs",
        ):
            getattr(module, companion).pop(key, None)
