"""2:4 sparsity: which layers have it, and torch's semi-structured tensors where the device knows them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from kdcore.compaction.call import Call
from kdcore.compaction.check import largest_difference
from kdcore.engine.cost import time_call
from kdcore.errors import RunError, WeightsError
from kdcore.pipeline.diagnosis import reason

GROUP, KEPT = 4, 2
CAPABILITY = (8, 0)

# The result of a sum in half precision depends on its order.
HALF_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Pattern:
    """The linear layers of a model: those that are 2:4, and by name how many of the others' groups are not."""

    layers: list[str]
    others: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Converted:
    """What conversion changed: which layers, which could not be, milliseconds of one batch, the largest difference."""

    layers: list[str]
    refused: dict[str, str]
    before_ms: float
    after_ms: float
    difference: float


def find_pattern(model: nn.Module) -> Pattern:
    """Return which linear layers hold at most two values other than 0 in every four consecutive inputs.

    Raises:
        WeightsError: none does.
    """
    layers, others = [], {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        broken, groups = _broken_groups(module.weight.detach())
        if broken:
            others[name] = broken, groups
        else:
            layers.append(name)
    if not layers:
        closest = sorted(others, key=lambda name: others[name][0] / others[name][1])[:1]
        near = "".join(
            f"; the closest is {name}, where {others[name][0]} of {others[name][1]} groups of four hold more than two"
            for name in closest
        )
        convolutions = [name for name, module in model.named_modules() if _is_two_to_four_convolution(module)]
        also = (
            f"; {len(convolutions)} convolutions are, but torch multiplies linear layers only" if convolutions else ""
        )
        raise WeightsError(
            f"none of {len(others)} linear layers is 2:4{near}{also}",
            repair="prune linear layers with pattern: 2:4 and target_sparsity: 0.5",
        )
    return Pattern(layers, others)


def missing_support() -> str:
    """Return what a device for semi-structured tensors lacks here, or nothing."""
    if not torch.cuda.is_available():
        return "there is no CUDA device here"
    found = torch.cuda.get_device_capability()
    if found < CAPABILITY:
        name = torch.cuda.get_device_name()
        return f"{name} has compute capability {found[0]}.{found[1]}"
    return ""


def converted(model: nn.Module, layers: Iterable[str]) -> nn.Module:
    """Move a model to the GPU in half precision and turn the layers' weights into semi-structured tensors.

    Raises:
        RunError: the device does not support them.
        WeightsError: a layer cannot be converted.
    """
    lacking = missing_support()
    if lacking:
        raise RunError(
            f"torch's semi-structured tensors need a CUDA device of compute capability 8.0 or newer: {lacking}",
            repair="load it without semi_structured; the zeros are in place and the outputs the same",
        )
    model = model.to("cuda", torch.float16)
    for name in layers:
        problem = _convert(model.get_submodule(name))
        if problem:
            raise WeightsError(f"{name!r} cannot be semi-structured: {problem}")
    return model


def convert_and_check(model: nn.Module, layers: Iterable[str], calls: list[Call]) -> Converted:
    """Convert a copy of the model on the GPU, compare its outputs and time both.

    Raises:
        WeightsError: the outputs differ by more than half precision explains.
    """
    dense = copy.deepcopy(model).to("cuda", torch.float16)
    sparse = copy.deepcopy(dense)
    done, refused = [], {}
    for name in layers:
        problem = _convert(sparse.get_submodule(name))
        if problem:
            refused[name] = problem
        else:
            done.append(name)
    moved = [call.mapped(_on_gpu) for call in calls]
    difference = max(largest_difference(call.run(dense), call.run(sparse)) for call in moved)
    if difference > HALF_TOLERANCE:
        raise WeightsError(
            f"the semi-structured model's outputs differ from the masked model's by {difference:.1e} of the largest, "
            f"more than {HALF_TOLERANCE:g}; nothing was written"
        )
    times = [time_call(each, lambda each=each: moved[0].run(each)) for each in (dense, sparse)]  # type: ignore[misc]
    return Converted(done, refused, times[0], times[1], difference)


def _convert(module: nn.Module) -> str:
    """Replace a linear layer's weight; returns what prevents it."""
    assert isinstance(module, nn.Linear)
    try:
        sparse = torch.sparse.to_sparse_semi_structured(module.weight.detach())
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return reason(error).splitlines()[0]
    module.weight = nn.Parameter(sparse, requires_grad=False)
    return ""


def _broken_groups(weight: torch.Tensor) -> tuple[int, int]:
    """Return how many groups of four hold more than two values, and how many groups there are."""
    columns = weight.shape[1] // GROUP * GROUP
    if columns < weight.shape[1]:
        # A rest that makes no group cannot be stored, whatever it holds.
        return max(1, weight.shape[0]), max(1, weight.shape[0] * (columns // GROUP + 1))
    groups = (weight != 0).view(weight.shape[0], -1, GROUP).sum(-1)
    return int((groups > KEPT).sum()), groups.numel()


def _is_two_to_four_convolution(module: nn.Module) -> bool:
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return False
    return not _broken_groups(module.weight.detach().flatten(1))[0]


def _on_gpu(value: torch.Tensor) -> torch.Tensor:
    return value.cuda().half() if value.is_floating_point() else value.cuda()
