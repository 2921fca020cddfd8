"""What a stage trains: that it stands apart from what is frozen, may learn, and is reached by a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdcore.config.config import StageConfig
from kdcore.errors import WiringError
from kdcore.pipeline.diagnosis import of_device, reason
from kdcore.pipeline.node import Node


def gradients(total: Tensor, parameters: Sequence[Tensor], stage: StageConfig) -> set[int]:
    """Return the ids of the parameters (or other tensors) that the gradient of `total` reaches.

    Raises:
        WiringError: nothing that the stage trains is reached, or the backward pass fails.
    """
    if not total.requires_grad:
        raise WiringError(
            f"no term of stage {stage.name!r} depends on what it trains ({', '.join(stage.train)})",
            place=stage.place,
            repair="bind a loss's input to it; the teacher's side of a loss is detached",
        )
    try:
        found = _found(total, parameters)
    except RuntimeError as error:
        if of_device(error):
            raise
        raise WiringError(
            f"the backward pass of stage {stage.name!r} failed: {reason(error)}",
            place=stage.place,
            repair="look for a loss or adapter that changes its inputs in place",
        ) from error
    return {id(each) for each, gradient in zip(parameters, found, strict=True) if gradient is not None}


def _found(total: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Return the gradients without leaving them in `.grad`, where hooks of optimizers may wait for them."""
    try:
        return torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
    # Reentrant checkpoints give gradients to a real backward pass only; the probe takes them away again.
    for each in parameters:
        if not each.is_leaf:
            each.retain_grad()
    total.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad for parameter in parameters]


def check_apart(nodes: Mapping[str, Node], stage: StageConfig) -> None:
    """Raise WiringError if something frozen and something trained share a parameter."""
    frozen = {id(each): node for node in nodes.values() if node.frozen for each in node.module.parameters()}
    for node in nodes.values():
        shared = [name for name, each in node.module.named_parameters() if id(each) in frozen]
        if not node.frozen and shared:
            parameters = dict(node.module.named_parameters())
            other = frozen[id(parameters[shared[0]])].name
            raise WiringError(
                f"{node.name!r} is trained and {other!r} is frozen in stage {stage.name!r}, but they share "
                f"{', '.join(shared[:5])}",
                place=stage.place,
                repair=f"copy the shared modules, or freeze them in {node.name!r} too and give {other!r} its own",
            )


def check_learnable(stage: StageConfig, nodes: Mapping[str, Node]) -> None:
    """Raise WiringError if something that the stage trains has no parameter left to train."""
    for name in stage.train:
        if not any(each.requires_grad for each in nodes[name].module.parameters()):
            raise WiringError(
                f"{name!r} is trained in stage {stage.name!r} but has no parameter that may learn",
                place=stage.place,
                repair="take it out of train:, or loosen freeze:",
            )


def check_reached(stage: StageConfig, nodes: Mapping[str, Node], reached: set[int]) -> None:
    """Raise WiringError if something that the stage trains has nothing to learn from."""
    for name in stage.train:
        if not any(id(each) in reached for each in nodes[name].module.parameters()):
            raise WiringError(
                f"{name!r} is trained in stage {stage.name!r}, but no term's gradient reaches it",
                place=stage.place,
                repair="bind an input of a loss that is not detached (the student's side) to it",
            )
