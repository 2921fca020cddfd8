"""What a loss returns, a scalar or (sum, count), and how several such results add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugin_wrappers.nested import leaves

Count = Tensor | int | float
Result = Tensor | tuple[Tensor, Count]


def weighted_sum(results: Sequence[Result], weights: Sequence[float]) -> Result:
    r"""Add up results so that dividing by the count at the end weighs the means.

    For sums s_i over counts c_i it returns (sum_i w_i s_i c_1 / c_i, c_1). Divided by c_1 this is
    sum_i w_i s_i / c_i, and stays so over several batches as long as the counts keep their ratios,
    which they do where they follow from shared labels or from shapes.
    """
    first = results[0]
    if not isinstance(first, tuple):
        return _total([result for result in results if isinstance(result, Tensor)], weights)
    count = first[1]
    sums = [first[0]]
    sums += [result[0] * _ratio(count, result[1], result[0]) for result in results[1:] if isinstance(result, tuple)]
    return _total(sums, weights), count


def connected_zero(inputs: Mapping[str, Any], loss: nn.Module, like: Tensor) -> Tensor:
    """Return 0 that reaches all inputs and parameters that want a gradient, with gradient zero.

    A parameter without gradient on one of several processes would stop them all.
    """
    given = list(leaves(inputs))
    modules = [loss, *(each for each in given if isinstance(each, nn.Module))]
    tensors = [each for each in given if isinstance(each, Tensor)]
    wanted = [
        each for each in (*tensors, *(p for module in modules for p in module.parameters())) if each.requires_grad
    ]
    # An empty slice, not a product with zero: it stays finite whatever the values are.
    parts = [(each if each.dim() else each.unsqueeze(0))[:0].sum() for each in wanted]
    return sum(parts, torch.zeros((), device=like.device))


def _total(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = torch.add(total, value, alpha=weight)
    return total


def _ratio(count: Count, other: Count, total: Tensor) -> Tensor | float:
    if not isinstance(other, Tensor):
        return count / (other or 1)
    # Where nothing was counted the sum is 0 and any divisor will do; a test would stop the device.
    divisor = torch.where(other == 0, torch.ones_like(other), other).to(total.dtype)
    return (count.to(total.dtype) if isinstance(count, Tensor) else count) / divisor
