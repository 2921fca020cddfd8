"""What `pairs` and `dict` share: inputs taken apart, one loss per part, results added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kd_plugin_wrappers.results import Count, Result, weighted_sum
from kd_plugin_wrappers.simple import count_of, pass_progress, roles_of
from kdcore.component import Role
from kdcore.contracts import Facts, LossFactory, set_up


class PartsWrapper(nn.Module):
    """Give each part of the inputs to a loss of its own and add up the weighted results."""

    def __init__(self, make_loss: LossFactory) -> None:
        super().__init__()
        self.roles = roles_of(make_loss)
        self.losses = nn.ModuleList()
        self.weights: Sequence[float] = ()

    def pick(self, inputs: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Return the inputs of one part."""
        raise NotImplementedError

    def split(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the inputs of all parts; raises ValueError where they cannot be taken apart."""
        raise NotImplementedError

    def title(self, index: int) -> str:
        """Return what messages call a part."""
        raise NotImplementedError

    def setup(self, facts: Facts) -> None:
        """Hand every loss the facts of its own part."""
        for index, (loss, part) in enumerate(zip(self.losses, self.split(facts.inputs), strict=True)):
            try:
                set_up(loss, replace(facts, inputs=part))
            except ValueError as error:
                raise ValueError(f"{self.title(index)}: {error}") from error

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        """Tell the losses how far the stage is."""
        pass_progress(self.losses, step, total_steps, epoch)

    def count(self, **inputs: Any) -> Count | None:
        """Return what the first part's loss counts: the count that `forward` returns."""
        if not len(self.losses):
            return None
        count = count_of(self.losses[0], self.pick(inputs, 0))
        if count is not None:
            self._check_shared([self.pick(inputs, index) for index in range(len(self.losses))])
        return count

    def forward(self, **inputs: Any) -> Result:
        """Return the weighted sum over all parts: a scalar, or (sum, count)."""
        parts = self.split(inputs)
        results = []
        for index, (loss, part) in enumerate(zip(self.losses, parts, strict=True)):
            try:
                results.append(loss(**part))
            except ValueError as error:
                raise ValueError(f"{self.title(index)}: {error}") from error
        if isinstance(results[0], tuple):
            self._check_shared(parts)
        return weighted_sum(results, self.weights)

    def _check_shared(self, parts: Sequence[Mapping[str, Any]]) -> None:
        for name, role in self.roles.items():
            if role is Role.LABELS and any(part.get(name) is not parts[0].get(name) for part in parts):
                raise ValueError(
                    f"the loss returns (sum, count) and {name} differs between {self.title(0)} and the others; means "
                    f"over different positions cannot be added up before they are divided. Bind {name} once for all, "
                    "or write a term of its own for each"
                )
