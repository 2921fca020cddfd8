"""The wrapper that changes nothing, and what every wrapper owes the loss inside it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from kd_plugin_wrappers.results import Count, Result
from kdcore.component import Role
from kdcore.contracts import Facts, LossFactory, method_of, set_up


class SimpleWrapper(nn.Module):
    """Call one loss with its inputs as they are bound.

    Arguments:
        make_loss: makes the loss, which may be a wrapper itself.
    """

    def __init__(self, make_loss: LossFactory) -> None:
        super().__init__()
        self.roles = roles_of(make_loss)
        self.loss = make_loss()

    def setup(self, facts: Facts) -> None:
        """Hand the facts to the loss."""
        set_up(self.loss, facts)

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        """Tell the loss how far the stage is."""
        pass_progress([self.loss], step, total_steps, epoch)

    def count(self, **inputs: Any) -> Count | None:
        """Return how many positions the loss will count in these inputs, or None if they do not tell."""
        return count_of(self.loss, inputs)

    def forward(self, **inputs: Any) -> Result:
        """Return the loss of `inputs`: a scalar, or (sum, count)."""
        return self.loss(**inputs)  # type: ignore[no-any-return]


def roles_of(make_loss: LossFactory) -> dict[str, Role]:
    """Return the role of each input of the losses that `make_loss` makes."""
    return {each.name: each.role for each in make_loss.inputs}


def pass_progress(losses: Iterable[nn.Module], step: int, total_steps: int, epoch: int) -> None:
    """Call `progress` of those losses that have one."""
    for loss in losses:
        progress = method_of(loss, "progress")
        if progress is not None:
            progress(step, total_steps, epoch)


def count_of(loss: nn.Module, inputs: Mapping[str, Any]) -> Count | None:
    """Return what `loss` counts in `inputs`, or None if it cannot tell or counts nothing."""
    count = method_of(loss, "count")
    if count is None:
        return None
    parameters = inspect.signature(count).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return count(**inputs)  # type: ignore[no-any-return]
    # A loss names those inputs that tell its count; it has no use for the others.
    needed = [name for name, each in parameters.items() if each.default is each.empty]
    if any(name not in inputs for name in needed):
        return None
    return count(**{name: value for name, value in inputs.items() if name in parameters})  # type: ignore[no-any-return]
