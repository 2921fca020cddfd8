"""Positions that do not count are dropped before the loss sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugin_wrappers.causal import CausalWrapper
from kd_plugin_wrappers.checks import NO_SELECTION
from kd_plugin_wrappers.nested import leaves, mapped
from kd_plugin_wrappers.results import Count, Result, connected_zero
from kd_plugin_wrappers.selection import Selection, agreed_positions, as_boolean, flattened, is_integer
from kd_plugin_wrappers.simple import SimpleWrapper, count_of
from kdcore.component import Role
from kdcore.contracts import Facts, LossFactory, set_up


class MaskedWrapper(SimpleWrapper):
    """Drop positions by a mask, by an ignored label, or by both, before the loss.

    Inputs of role positions (*positions, ...) and labels (*positions, ...) become (N, ...), N the
    number of positions kept; all others are untouched. The host waits for the device once per call,
    to learn N; a loss with a mask of its own avoids that.

    When no position is left the result is 0, or (0, 0) for a loss that counts its positions, with
    gradient zero.

    Arguments:
        make_loss: makes the loss, which may be a wrapper itself.
        ignore_index: positions whose integer label equals it are dropped.

    Raises:
        ValueError: there is neither a mask nor an ignored label; shapes do not fit; or it stands
            around `causal`, which would then shift classes instead of positions.
    """

    def __init__(self, make_loss: LossFactory, ignore_index: int | None = None) -> None:
        super().__init__(make_loss)
        self.ignore_index = ignore_index
        self._bound: frozenset[str] = frozenset()
        _refuse_causal(self.loss)

    def setup(self, facts: Facts) -> None:
        """Hand the loss the facts with all positions in one dimension, as many as there may be."""
        self._bound = frozenset(facts.inputs)
        inner = dict(facts.inputs)
        positions = agreed_positions(self._deciders(inner.pop("mask", None), inner))
        for name in self._selectable(inner):
            inner[name] = mapped(partial(flattened, name, positions=positions), inner[name])
        set_up(self.loss, replace(facts, inputs=inner))
        _refuse_causal(self.loss)  # again: pairs has its losses only now

    def count(self, **inputs: Any) -> Count | None:
        """Return how many kept positions the loss will count, or None if these inputs do not tell."""
        mask = inputs.pop("mask", None)
        labels = {name: value for name, value in inputs.items() if self.roles.get(name) is Role.LABELS}
        deciding = {"mask"} | {name for name, role in self.roles.items() if role is Role.LABELS}
        given = inputs.keys() | ({"mask"} if mask is not None else set())
        if deciding & self._bound - given or (self.ignore_index is None and mask is None):
            return None
        if self.ignore_index is not None and not self._integer_labels(labels):
            return None
        selection = self._selection(mask, labels)
        return self._count_selected(selection, self._select(selection, labels))

    def forward(self, *, mask: Tensor | None = None, **inputs: Any) -> Result:
        """Return the loss of the positions that count: a scalar, or (sum, count)."""
        selection = self._selection(mask, inputs)
        selected = self._select(selection, inputs)
        if selection.num_kept:
            return super().forward(**selected)
        zero = connected_zero(selected, self.loss, selection.keep)
        labels = {name: value for name, value in selected.items() if self.roles.get(name) is Role.LABELS}
        count = self._count_selected(selection, labels)
        return zero if count is None else (zero, count)

    def _selection(self, mask: Tensor | None, inputs: Mapping[str, Any]) -> Selection:
        deciders = self._deciders(mask, inputs)
        agreed_positions(deciders)
        keeps = [as_boolean(each) if name == "mask" else each != self.ignore_index for name, each in deciders]
        keep = keeps[0]
        for other in keeps[1:]:
            keep = keep & other
        return Selection(keep)

    def _deciders(self, mask: Any, inputs: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
        """Return the mask and the labels to compare, as tensors or as facts about them."""
        if mask is not None and not hasattr(mask, "shape"):
            raise ValueError(f"mask must be one tensor, found a {type(mask).__name__}")
        if mask is None and self.ignore_index is None:
            raise ValueError(NO_SELECTION)
        labels = [] if self.ignore_index is None else self._integer_labels(inputs)
        if self.ignore_index is not None and not labels:
            names = ", ".join(f"{name} ({role.value})" for name, role in self.roles.items() if name in inputs)
            raise ValueError(
                f"no input has integer labels to compare with ignore_index {self.ignore_index}; the loss is given "
                f"{names or 'nothing'}; bind mask instead"
            )
        return [*([] if mask is None else [("mask", mask)]), *labels]

    def _integer_labels(self, inputs: Mapping[str, Any]) -> list[tuple[str, Any]]:
        names = [name for name, role in self.roles.items() if role is Role.LABELS]
        return [(name, label) for name in names for label in leaves(inputs.get(name)) if is_integer(label)]

    def _selectable(self, inputs: Mapping[str, Any]) -> list[str]:
        return [name for name in inputs if self.roles.get(name) in (Role.POSITIONS, Role.LABELS)]

    def _select(self, selection: Selection, inputs: Mapping[str, Any]) -> dict[str, Any]:
        selected = {name: mapped(partial(selection.of, name), inputs[name]) for name in self._selectable(inputs)}
        return {**inputs, **selected}

    def _count_selected(self, selection: Selection, labels: Mapping[str, Any]) -> Count | None:
        # A loss with a mask of its own counts by it; of the positions kept here every one counts.
        own = self.roles.get("mask") is Role.LABELS
        counting = torch.ones(selection.num_kept, dtype=torch.bool, device=selection.keep.device)
        return count_of(self.loss, {**labels, **({"mask": counting} if own else {})})


def _refuse_causal(loss: nn.Module) -> None:
    if any(isinstance(module, CausalWrapper) for module in loss.modules()):
        raise ValueError("masked leaves no time dimension to shift; put causal outside: wrapper: [causal, masked]")
