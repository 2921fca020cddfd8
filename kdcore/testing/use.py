"""One use of a component, whatever its kind, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.component import Kind
from kdcore.contracts import method_of
from kdcore.testing.check import MODULES
from kdcore.testing.nested import floating, tensors
from kdcore.testing.steps import PER_EPOCH, STEPS, trainable
from kdcore.testing.subject import Subject

# What came of a use, to be compared bit by bit.
Found = list[Any]
# Uses a fresh instance; the number says on what: other inputs, gradients, results or seeds.
Use = Callable[[Subject, int], Found]

_USES: dict[Kind, Use] = {}


def uses(kind: Kind) -> Callable[[Use], Use]:
    """Enter a function as the use of components of a kind."""

    def enter(use: Use) -> Use:
        _USES[kind] = use
        return use

    return enter


def used(subject: Subject, number: int) -> Found:
    """Use a fresh instance and return what came of it."""
    if subject.kind in MODULES:
        return trained(subject, subject.build(), subject.inputs(seed=number))
    return _USES[subject.kind](subject, number)


def trained(subject: Subject, built: nn.Module, inputs: Mapping[str, Any]) -> Found:
    """Do a step of training without moving parameters; return value, gradients and buffers."""
    built.train()
    progress = method_of(built, "progress")
    if progress is not None:
        progress(0, STEPS, 0 // PER_EPOCH)
    wanted = [*subject.learning(inputs, subject.learns), *trainable(built)]
    value = subject.value(built, inputs)
    gradients = torch.autograd.grad(value, wanted, allow_unused=True) if wanted and value.requires_grad else ()
    buffers = [each.clone() for each in built.buffers()]
    return [value.detach(), *(each for each in gradients if each is not None), *buffers]


def alike(one: Found, other: Found) -> bool:
    """Whether two uses came to the same, bit for bit."""
    return len(one) == len(other) and all(_same(first, second) for first, second in zip(one, other, strict=True))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return bool(one == other)


@uses(Kind.OUTPUT_EXTRACTOR)
def _extracted(subject: Subject, number: int) -> Found:
    inputs = subject.inputs(seed=number)
    found = subject.call(subject.build(), inputs)
    return [each.detach().clone() for each in tensors(list(found))]


def overwrite(inputs: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Write the numbers of other inputs into the tensors of these, in place, as memory is used again."""
    with torch.no_grad():
        for name, value in inputs.items():
            for old, new in zip(tensors(value), tensors(others[name]), strict=True):
                old.copy_(new)
    for each in (leaf for value in inputs.values() for leaf in floating(value)):
        each.grad = None
