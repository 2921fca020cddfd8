"""What passes between the core and the objects that plugins build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdcore.component import Input


class Extracted(NamedTuple):
    """What an output extractor reads off a model's raw output.

    `value` is what the bare address `student` means, `named` what `student#key` finds, and
    `losses` the scalars that the model itself returned; they become terms `<model>.<key>`.
    """

    value: Tensor | None
    named: Mapping[str, Any] = {}
    losses: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class TensorFacts:
    """Shape and dtype of one tensor of the probe batch."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(value: Any) -> Any:
        """Describe every tensor in `value`, keeping lists, tuples, dicts and anything else as they are."""
        if isinstance(value, Tensor):
            return TensorFacts(tuple(value.shape), value.dtype)
        if isinstance(value, Mapping):
            return {key: TensorFacts.of(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [TensorFacts.of(item) for item in value]
        return value


@dataclass(frozen=True)
class Facts:
    """What `setup(facts)` of a loss, wrapper, adapter or balancer may rely on.

    Arguments:
        inputs: per bound input a TensorFacts, a list or dict of them, or the module itself.
        addresses: per bound input of a loss the address as text, for example `batch:target`.
        like: what an adapter must produce, from its `like:` address.
        num_samples: the training set's length.
        num_classes: the training set's classes, if it says so.
        targets: the training set's labels by sample index, if it offers them.
        num_processes: how many processes train together.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    like: TensorFacts | None = None
    num_samples: int | None = None
    num_classes: int | None = None
    targets: Sequence[int] | Tensor | None = None
    num_processes: int = 1


class LossFactory(Protocol):
    """What a wrapper is built with: it makes a fresh loss per call and says what that loss takes."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of the losses it makes, with their roles."""

    def __call__(self) -> nn.Module:
        """Make a loss that shares no state with any other."""


def set_up(module: nn.Module, facts: Facts) -> None:
    """Call `module.setup(facts)` where the module has one; wrappers pass facts on with it."""
    setup = getattr(module, "setup", None)
    if setup is not None:
        setup(facts)
