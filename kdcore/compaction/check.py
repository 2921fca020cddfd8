"""Whether two models yield the same, and where they begin to differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kdcore.compaction.call import Call
from kdcore.errors import WiringError


def largest_difference(expected: Any, found: Any) -> float:
    """Return max |a - b| / max |a|, the largest over all tensors of an output; infinite where shapes differ.

    Raises:
        WiringError: the expected output is not finite, so nothing can be compared with it.
    """
    pairs = zip(_tensors(expected), _tensors(found), strict=False)
    if len(_tensors(expected)) != len(_tensors(found)):
        return float("inf")
    return max((_difference(one, other) for one, other in pairs), default=0.0)


def first_difference(
    model: nn.Module, compact: nn.Module, call: Call, kept: Mapping[str, Sequence[Tensor]], limit: float
) -> str:
    """Return the first module in the order of execution whose outputs differ by more than `limit`.

    Arguments:
        model: the original.
        compact: the smaller one.
        call: what both are given.
        kept: what is kept of each module's output, by dimension.
        limit: relative to the largest output.
    """
    expected, found = _outputs(model, call), _outputs(compact, call)
    for name in expected.keys() & found.keys() & kept.keys():
        expected[name] = _cut(expected[name], kept[name])
    for name, value in expected.items():
        if name in found and value.shape == found[name].shape and _difference(value, found[name]) > limit:
            return name
    return ""


def _cut(value: Tensor, kept: Sequence[Tensor]) -> Tensor:
    """Return what is kept of a tensor; its batch may be larger than the one that was recorded."""
    for dim, mask in enumerate(kept[: value.dim()]):
        if len(mask) == value.shape[dim] and not mask.all():
            value = value.index_select(dim, torch.nonzero(mask).flatten())
    return value


def _outputs(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """Return the tensor that each module without children yields first, in the order of execution."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):

            def note(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor) and name not in found:
                    found[name] = output.detach().clone()

            handles.append(module.register_forward_hook(note))
    try:
        call.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _tensors(output: Any) -> list[Tensor]:
    return [each for each in pytree.tree_leaves(output) if isinstance(each, Tensor)]


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, found) else float("inf")
    one, other = expected.double(), found.double()
    if not one.isfinite().all():
        raise WiringError(
            "the model's own output is not finite on this data, so nothing can be compared with it",
            repair="export weights of a run that did not diverge",
        )
    scale = float(one.abs().max())
    distance = float((one - other).abs().max())
    if distance == 0:
        return 0.0
    return distance / scale if scale and distance == distance else float("inf")  # noqa: PLR0124 (NaN)
