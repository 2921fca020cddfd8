"""Which values of a program vary with its input, and which are constants whatever comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from kdcore.compaction.operations import (
    BATCH_NORMS,
    CUTS,
    GROUP_NORMS,
    NORMS,
    PRODUCTS,
    REDUCTIONS,
    SOFTMAX,
    STRUCTURAL,
    any_but,
    is_convolution,
    is_padded,
    is_pointwise,
    is_spatial,
    run_on,
    spatial_dims,
)
from kdcore.compaction.program import Program, Slot, Step


class Variation:
    """For every tensor a mask: true where its value may depend on the input.

    The rules err on the side of true: an operation they do not know makes all of its output vary. Where the mask is
    false, the value seen on the batch is the value on any other.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.masks: dict[Slot, Tensor] = {}
        self._zero: dict[tuple[Slot, int], Tensor] = {}
        self._constant: dict[tuple[Slot, int], Tensor] = {}
        for slot, value in program.values.items():
            if slot.node.op in ("placeholder", "get_attr"):
                varies = slot in program.inputs
                self.masks[slot] = torch.full(value.shape, varies)
        for step in program.steps:
            self._follow(step)

    def of(self, slot: Slot) -> Tensor:
        """Return the mask of a tensor."""
        return self.masks[slot]

    def nonzero(self, slot: Slot) -> Tensor:
        """Return where a tensor may be other than 0."""
        return self.masks[slot] | (self.program.values[slot] != 0)

    def zero_lanes(self, slot: Slot, dim: int) -> Tensor:
        """Return which indices of a dimension are 0 everywhere, whatever the input."""
        if (slot, dim) not in self._zero:
            self._zero[slot, dim] = ~any_but(self.nonzero(slot), dim)
        return self._zero[slot, dim]

    def constant_lanes(self, slot: Slot, dim: int) -> Tensor:
        """Return the one value that each index of a dimension has everywhere; NaN where there is no such value."""
        if (slot, dim) not in self._constant:
            value = self.program.values[slot].detach()
            others = tuple(each for each in range(value.dim()) if each != dim % value.dim())
            low, high = (value.amin(others), value.amax(others)) if others else (value, value)
            constant = ~any_but(self.masks[slot], dim) & (low == high)
            self._constant[slot, dim] = torch.where(constant, low.double(), torch.nan)
        return self._constant[slot, dim]

    def _follow(self, step: Step) -> None:
        outputs = self.program.written_by(step)
        masks = self._masks(step)
        for slot in outputs:
            shape = self.program.values[slot].shape
            found = masks[slot.output] if masks is not None and slot.output < len(masks) else None
            self.masks[slot] = torch.ones(shape, dtype=torch.bool) if found is None else found.expand(shape)

    def _masks(self, step: Step) -> list[Tensor] | None:
        families: list[tuple[bool, Callable[[Step], Any]]] = [
            (step.op in STRUCTURAL, self._structural),
            (step.op in PRODUCTS, self._product),
            (is_pointwise(step), self._pointwise),
            (step.op == "linear", self._linear),
            (is_convolution(step), self._convolution),
            (step.op in BATCH_NORMS, self._batch_norm),
            (step.op in GROUP_NORMS or step.op in NORMS, self._norm),
            (is_spatial(step), self._spatial),
            (step.op in REDUCTIONS or step.op in SOFTMAX, self._reduction),
            (step.op == "embedding", self._embedding),
            (step.op == "scaled_dot_product_attention", self._attention),
        ]
        rule = next((each for fits, each in families if fits), None)
        if rule is None:
            return None
        found = rule(step)
        return found if isinstance(found, list) or found is None else [found]

    def _input(self, value: Any) -> Tensor | None:
        if not isinstance(value, fx.Node):
            return None
        return self.masks.get(self.program.slot(value))

    def _structural(self, step: Step) -> list[Tensor]:
        def mask(node: fx.Node) -> Any:
            slot = self.program.slot(node)
            varies = self.masks[slot]
            if step.op in CUTS and self.program.values[Slot(step.node)].numel() < varies.numel():
                dim, value = int(step.arguments["dim"]), self.program.values[slot]
                # A row of constants that differ, as of positions: which of them is seen may change with the input.
                uniform = (value == value.narrow(dim, 0, 1)).all(dim, keepdim=True)
                varies = varies | ~(uniform | varies.any(dim, keepdim=True))
            return varies

        result = run_on(step, mask, False)
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def _pointwise(self, step: Step) -> Tensor:
        masks = [self.masks[slot] for slot in self.program.read_by(step)]
        shape = self.program.values[Slot(step.node)].shape
        if step.op == "prelu" and masks[0].dim() > 1:
            masks[1] = masks[0]
        varies = torch.zeros(shape, dtype=torch.bool)
        for each in masks:
            varies = varies | each
        return varies

    def _product(self, step: Step) -> Tensor:
        """What varies in one factor varies the product only where the other may be other than 0."""
        one, other = step.arguments["self"], step.arguments["other"]
        if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
            return self._pointwise(step)
        left, right = self.program.slot(one), self.program.slot(other)
        right_matters = self.masks[right] & self.nonzero(left)
        left_matters = self.masks[left] & self.nonzero(right) if step.op == "mul" else self.masks[left]
        return right_matters | left_matters

    def _linear(self, step: Step) -> Tensor | None:
        weight = self.program.slot(step.arguments["weight"])
        if self.masks[weight].any():
            return None
        varies = self._input(step.arguments["input"])
        assert varies is not None
        return F.linear(varies.float(), (self.program.values[weight] != 0).float()) > 0

    def _convolution(self, step: Step) -> Tensor | None:
        weight = self.program.slot(step.arguments["weight"])
        if self.masks[weight].any():
            return None
        varies = self._input(step.arguments["input"])
        assert varies is not None
        function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[spatial_dims(step) - 1]
        others = {key: step.arguments[key] for key in ("stride", "padding", "dilation", "groups")}
        used = (self.program.values[weight] != 0).float()
        return function(varies.float(), used, None, **others) > 0

    def _batch_norm(self, step: Step) -> list[Tensor] | None:
        if step.arguments.get("training") or step.arguments.get("running_mean") is None:
            return None
        varies = self._input(step.arguments["input"])
        assert varies is not None
        weight = step.arguments.get("weight")
        if isinstance(weight, fx.Node):
            shape = [-1 if dim == 1 else 1 for dim in range(varies.dim())]
            varies = varies & self.nonzero(self.program.slot(weight)).view(shape)
        return [varies]

    def _norm(self, step: Step) -> list[Tensor] | None:
        """Return where the scale is not 0: all that is normalised together varies together."""
        weight = step.arguments.get("weight")
        if not isinstance(weight, fx.Node):
            return None
        scaled = self.nonzero(self.program.slot(weight))
        dims = self.program.values[Slot(step.node)].dim()
        return [scaled.view([-1 if dim == 1 else 1 for dim in range(dims)]) if step.op in GROUP_NORMS else scaled]

    def _spatial(self, step: Step) -> list[Tensor] | None:
        slot = self.program.slot(next(iter(step.arguments.values())))
        out = self.program.values[Slot(step.node)].dim()
        dims = tuple(range(out - spatial_dims(step), out))
        # Padding would mix a constant other than 0 with zeros at the border.
        varies = self.nonzero(slot) if is_padded(step) else self.masks[slot]
        return [_any_over(varies, dims)]

    def _reduction(self, step: Step) -> Tensor | None:
        dims = step.arguments.get("dim")
        varies = self._input(step.arguments["self"])
        if dims is None or varies is None:
            return None
        dims = tuple(each % varies.dim() for each in (dims if isinstance(dims, (list, tuple)) else [dims]))
        reduced = _any_over(varies, dims)
        if step.op in SOFTMAX or step.arguments.get("keepdim"):
            return reduced
        for dim in sorted(dims, reverse=True):
            reduced = reduced.squeeze(dim)
        return reduced

    def _embedding(self, step: Step) -> Tensor | None:
        """A column of the table is a constant only if all its rows agree."""
        weight = self.program.slot(step.arguments["weight"])
        if self.masks[weight].any():
            return None
        table = self.program.values[weight]
        return (table != table[:1]).any(0)

    def _attention(self, step: Step) -> Tensor | None:
        """A weighted mean over positions of zeros is 0, whatever the weights."""
        if step.arguments.get("dropout_p"):
            return None
        value = self.program.slot(step.arguments["value"])
        varies = self.nonzero(value).any(-2, keepdim=True)
        heads = self.program.values[Slot(step.node)].shape[-3] if varies.dim() > 2 else 1
        return varies.repeat_interleave(heads // varies.shape[-3], -3) if step.arguments.get("enable_gqa") else varies


def _any_over(mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    for dim in dims:
        mask = mask.any(dim, keepdim=True)
    return mask
