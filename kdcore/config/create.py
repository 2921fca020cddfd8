"""Build one component by hand, its params checked by its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdcore.component import Input, Kind
from kdcore.config.validation import check_params
from kdcore.errors import ConfigError, PluginError
from kdcore.plugins import Registered, as_kind, registry
from kdcore.signatures import BUILT_WITH

if TYPE_CHECKING:
    from torch import nn


def create(kind: str | Kind, name: str, **params: Any) -> Any:
    """Build the component `name` of `kind`; unknown or wrong params raise ConfigError.

    A wrapper also takes `make_loss` (see `make_loss`) and a balancer `terms`, a mapping of term
    names to weights: what the core passes them in a run.
    """
    registered = registry().find(kind, name)
    given = BUILT_WITH.get(as_kind(kind))
    if given is not None and given not in params:
        raise PluginError(f"{registered} is built with {given}", repair=f"pass {given}=...")
    extra = {given: params.pop(given)} if given else {}
    checked = checked_params(registered, params)
    return registered.factory()(**extra, **checked)


def make_loss(name: str, **params: Any) -> BoundLoss:
    """Return a factory of the loss `name` with `params`, for `create("wrapper", ..., make_loss=...)`."""
    registered = registry().find(Kind.LOSS, name)
    return BoundLoss(registered, checked_params(registered, params))


@dataclass(frozen=True)
class BoundLoss:
    """A loss and its params; every call makes a fresh instance."""

    registered: Registered
    params: Mapping[str, Any]

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of the losses it makes."""
        return self.registered.component.inputs

    def __call__(self) -> nn.Module:
        """Make a loss."""
        return self.registered.factory()(**self.params)  # type: ignore[no-any-return]


def checked_params(registered: Registered, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return `params` with the schema's defaults filled in; raises ConfigError naming every mistake."""
    filled, problems = check_params(registered, params)
    if problems:
        raise ConfigError(problems)
    return filled
