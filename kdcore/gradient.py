"""Losses that make their gradient together with their value, where that is cheaper than what autograd would do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def with_gradient(tensor: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return `value`, a scalar computed under no_grad, whose gradient for `tensor` is `gradient`.

    It is multiplied by what comes from upstream. First order: to differentiate it again is an error.
    """
    found: Tensor = _KnownGradient.apply(tensor, value, gradient)  # type: ignore[no-untyped-call]
    return found


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, tensor)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        gradient, tensor = ctx.saved_tensors
        found = gradient * upstream
        # Grad mode is on where somebody means to differentiate again; a constant there would be wrong without a word.
        if torch.is_grad_enabled():
            found = _Last.apply(found, tensor)  # type: ignore[no-untyped-call]
        return found, None, None


class _Last(torch.autograd.Function):
    """Passes a gradient on that depends on `tensor`, but cannot say how."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, tensor: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError(
            "this loss makes its gradient in closed form, and it cannot be differentiated again; write the loss out in "
            "torch where second derivatives are needed"
        )
