"""A few steps of training, as a stage would do them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdcore.contracts import method_of
from kdcore.testing.subject import Subject

STEPS = 20
PER_EPOCH = 2
RATE = 0.05


def trainable(built: Any) -> list[Tensor]:
    """Return the parameters that a stage would train."""
    return [each for each in built.parameters() if each.requires_grad] if isinstance(built, nn.Module) else []


def step(
    subject: Subject,
    built: nn.Module,
    number: int,
    *,
    batch: int | None = None,
    move: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Tell the progress, call the module on the batch of that number, and move its own parameters.

    Returns the value. Another `batch` than the step's own may be given; without `move` the parameters stay.
    """
    built.train()
    progress = method_of(built, "progress")
    if progress is not None:
        progress(number, STEPS, number // PER_EPOCH)
    inputs = subject.inputs(seed=100 + (number if batch is None else batch), dtype=dtype)
    subject.learning(inputs, subject.learns)
    value = subject.value(built, inputs, seed=number)
    parameters = trainable(built) if move else []
    if parameters and value.requires_grad:
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(RATE * gradient)
    return value.detach()
