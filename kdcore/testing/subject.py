"""A component under one example, as the checks handle it: built, fed, called."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.component import Kind, Role
from kdcore.config.create import checked_params
from kdcore.contracts import Facts, TensorFacts, set_up
from kdcore.plugins import Registered
from kdcore.signatures import BUILT_WITH
from kdcore.testing.example import Example
from kdcore.testing.inner import SQUARES
from kdcore.testing.kept import detach
from kdcore.testing.nested import floating, mapped, tensors
from kdcore.testing.randomness import seeded
from kdcore.testing.result import Finding, NotApplicable

BATCH = 4


@dataclass(frozen=True)
class Subject:
    """A component and one example of it; `example` is None where none is given and none can be derived.

    Arguments:
        registered: the component.
        example: the example.
        others: all examples of the component, for checks that look at it once.
        copied: whether it is called with copies of its inputs, which it may change.
        detached: whether the graphs that it keeps are cut after each call.
    """

    registered: Registered
    example: Example | None = None
    others: tuple[Example, ...] = ()
    copied: bool = False
    detached: bool = False

    @property
    def kind(self) -> Kind:
        """The component's kind."""
        return self.registered.kind

    @property
    def given(self) -> Example:
        """The example; raises NotApplicable where there is none."""
        if self.example is None:
            raise NotApplicable("there is no example of it: give Component.examples")
        return self.example

    @functools.cached_property
    def roles(self) -> dict[str, Role]:
        """The roles of the inputs by name, those of a wrapped loss included."""
        within = self.wraps.inputs if self.kind is Kind.WRAPPER else ()
        return {each.name: each.role for each in (*within, *self.registered.component.inputs)}

    @property
    def wraps(self) -> Any:
        """The factory of the loss that a wrapper is tested around."""
        return self.given.wraps or SQUARES

    @property
    def learns(self) -> tuple[str, ...]:
        """The names of the inputs that a gradient must reach."""
        if self.given.learns is not None:
            return self.given.learns
        inputs = self.inputs()
        if self.kind is Kind.BALANCER:
            return tuple(name for name in inputs if self.given.terms.get(name) != 0)
        able = [name for name, value in inputs.items() if floating(value) and self.roles.get(name) is not Role.LABELS]
        return tuple(each for each in able if self._belongs(each, "student")) or tuple(
            each for each in able[:1] if not self._belongs(each, "teacher")
        )

    @property
    def fixed(self) -> tuple[str, ...]:
        """The names of the inputs that no gradient may reach."""
        if self.given.fixed is not None:
            return self.given.fixed
        return tuple(
            name for name, value in self.inputs().items() if floating(value) and self._belongs(name, "teacher")
        )

    def _belongs(self, name: str, side: str) -> bool:
        within = self.wraps.inputs if self.kind is Kind.WRAPPER else ()
        found = {each.name: each for each in (*within, *self.registered.component.inputs)}.get(name)
        address = (found and found.default) or ""
        return address.split(":")[0].split("#")[0].split("@")[0] == side or name.startswith(side)

    def inputs(
        self, seed: int = 0, batch: int = BATCH, dtype: torch.dtype = torch.float32, *, equal: bool = False
    ) -> dict[str, Any]:
        """Make the example's inputs, or those at which both sides agree; the same ones for the same arguments."""
        make = self.given.equal if equal else self.given.inputs
        if make is None:
            raise NotApplicable("its example has no inputs")
        with seeded(seed):  # a module among the inputs draws from the global generator
            made = make(torch.Generator().manual_seed(seed), batch)
        return {name: _cast(value, dtype) for name, value in made.items()}

    def build(self, dtype: torch.dtype = torch.float32, batch: int = BATCH, *, prepared: bool = False) -> Any:
        """Make a fresh instance and set it up; the same one for the same arguments.

        `prepared` also brings it to where training goes on, as the example says.
        """
        with seeded():
            built = self.set_up(self.construct(), dtype, batch)
            if prepared and self.given.prepare is not None:
                with torch.no_grad():
                    self.given.prepare(built)
        return built.to(dtype) if isinstance(built, nn.Module) else built

    def construct(self) -> Any:
        """Make an instance with the example's params, checked as a config's are."""
        return self.make(checked_params(self.registered, dict(self.given.params)))

    def make(self, params: Mapping[str, Any]) -> Any:
        """Make an instance with any params, as somebody does who calls the constructor, and what the core passes."""
        given = {Kind.WRAPPER: self.wraps, Kind.BALANCER: dict(self.given.terms)}.get(self.kind)
        extra = {BUILT_WITH[self.kind]: given} if self.kind in BUILT_WITH else {}
        return self.registered.factory()(**extra, **params)

    def set_up(self, built: Any, dtype: torch.dtype = torch.float32, batch: int = BATCH) -> Any:
        """Tell an instance the facts, as the core does before training, and return it."""
        if isinstance(built, nn.Module) and self.kind is not Kind.MODEL:
            set_up(built, self._facts(dtype, batch))
        return built

    def _facts(self, dtype: torch.dtype, batch: int) -> Facts:
        # A balancer is fed by terms, which have no facts.
        if self.kind is Kind.BALANCER:
            return self.given.facts
        inputs = self.inputs(batch=batch, dtype=dtype)
        return replace(self.given.facts, inputs={name: TensorFacts.of(value) for name, value in inputs.items()})

    def call(self, built: Any, inputs: Mapping[str, Any], seed: int = 0) -> Any:
        """Call an instance as the core does."""
        given = mapped(torch.clone, inputs) if self.copied else inputs
        with seeded(seed):
            result = built(given) if self.kind is Kind.BALANCER else built(**given)
        if self.detached and isinstance(built, nn.Module):
            detach(built)
        return result

    def value(self, built: Any, inputs: Mapping[str, Any], seed: int = 0) -> Tensor:
        """Call an instance and return one number: the loss, or one that every part of an output moves."""
        result = self.call(built, inputs, seed)
        if self.kind in (Kind.LOSS, Kind.WRAPPER, Kind.BALANCER):
            return mean_of(result)
        parts = floating(result if not hasattr(result, "_asdict") else list(result))
        # Different weights, so that a normalised or centred output has a gradient too.
        weighted = [(each * torch.arange(1, each.numel() + 1).cos().reshape(each.shape)).sum() for each in parts]
        return torch.stack(weighted).sum() if weighted else torch.zeros(())

    def learning(self, inputs: Mapping[str, Any], names: tuple[str, ...]) -> list[Tensor]:
        """Make the floating-point tensors of the inputs so named want a gradient, and return them."""
        return [each.requires_grad_() for name in names for each in floating(inputs[name])]

    def batch_dim(self, name: str) -> int | None:
        """The dimension of the samples in the input so named."""
        return self.given.batch_dims.get(name, 0)


def mean_of(result: Any) -> Tensor:
    """Return a loss's scalar; of (sum, count), the mean."""
    if isinstance(result, tuple) and len(result) == 2:
        total, count = result
        return total / (count or 1)  # type: ignore[no-any-return]
    if not isinstance(result, Tensor) or result.numel() != 1 or not result.is_floating_point():
        raise Finding(f"called with the example's inputs it returned {shown(result)}, no scalar")
    return result.reshape(())


def shown(value: Any) -> str:
    """Describe a value in a message."""
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"{value.item():.8g}"
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}".replace("torch.", "")
    if isinstance(value, (int, float)):
        return f"{value:.8g}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of " + ", ".join(map(shown, value))
    return f"a {type(value).__name__}"


def all_finite(value: Any) -> bool:
    """Whether every number in `value` is finite."""
    return all(bool(each.isfinite().all()) for each in tensors(value))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, nn.Module):
        return value.to(dtype)
    return mapped(lambda each: each.detach().to(dtype) if each.is_floating_point() else each, value)
