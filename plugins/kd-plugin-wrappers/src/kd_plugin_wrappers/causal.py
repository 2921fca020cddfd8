"""What stands at one position predicts the label of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from kd_plugin_wrappers.checks import FUSED_HEAD
from kd_plugin_wrappers.nested import leaves, mapped
from kd_plugin_wrappers.results import Count, Result, connected_zero
from kd_plugin_wrappers.simple import SimpleWrapper, count_of
from kdcore.component import Role
from kdcore.contracts import Facts, LossFactory, TensorFacts, set_up


class CausalWrapper(SimpleWrapper):
    """Shift positions against labels by one, for models that predict the next token.

    Dimension 1 is time: inputs of role positions (B, T, ...) lose their last step, labels and masks
    (B, T) their first; all others are untouched. Positions are cut where there are no labels too,
    so that a loss between two models sees the same positions as the one against labels.

    Sequences of length 1 leave nothing: the result is 0, or (0, 0), with gradient zero.

    Arguments:
        make_loss: makes the loss, which may be a wrapper itself.

    Raises:
        ValueError: the loss takes a module (a fused head), or batch and time of the inputs differ.
    """

    def __init__(self, make_loss: LossFactory) -> None:
        super().__init__(make_loss)
        if Role.MODULE in self.roles.values():
            raise ValueError(FUSED_HEAD)

    def setup(self, facts: Facts) -> None:
        """Hand the loss the facts one step shorter."""
        set_up(self.loss, replace(facts, inputs=self._shifted(facts.inputs)))

    def count(self, **inputs: Any) -> Count | None:
        """Return how many positions the loss will count after the shift, or None if the inputs do not tell."""
        return count_of(self.loss, self._shifted(inputs))

    def forward(self, **inputs: Any) -> Result:
        """Return the loss of the shifted inputs: a scalar, or (sum, count)."""
        shifted = self._shifted(inputs)
        steps = next((leaf for name in self._timed(shifted) for leaf in leaves(shifted[name])), None)
        if steps is None or steps.shape[1]:
            return super().forward(**shifted)
        zero = connected_zero(shifted, self.loss, steps)
        labels = {name: value for name, value in shifted.items() if self.roles.get(name) is Role.LABELS}
        count = count_of(self.loss, labels)
        return zero if count is None else (zero, count)

    def _timed(self, inputs: Mapping[str, Any]) -> list[str]:
        return [name for name in inputs if self.roles.get(name) in (Role.POSITIONS, Role.LABELS)]

    def _shifted(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        names = self._timed(inputs)
        _check_time([(name, tuple(leaf.shape)) for name in names for leaf in leaves(inputs[name])])
        shifts = {name: partial(_shift, 0 if self.roles[name] is Role.POSITIONS else 1) for name in names}
        return {**inputs, **{name: mapped(shift, inputs[name]) for name, shift in shifts.items()}}


def _check_time(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    if len({shape[:2] for _, shape in shapes}) <= 1 and all(len(shape) >= 2 for _, shape in shapes):
        return
    found = ", ".join(f"{name} has shape {shape}" for name, shape in shapes)
    if any(len(shape) < 2 for _, shape in shapes):
        raise ValueError(f"causal needs batch and time as the first two dimensions; {found}")
    raise ValueError(f"causal needs inputs of the same batch and time; {found}")


def _shift(start: int, value: Tensor | TensorFacts) -> Tensor | TensorFacts:
    if isinstance(value, TensorFacts):
        return replace(value, shape=(value.shape[0], max(0, value.shape[1] - 1), *value.shape[2:]))
    return value[:, start : value.shape[1] - 1 + start]
