"""Losses called by hand under autocast compute what they compute without it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.precision import without_autocast

DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


class Gram(nn.Module):
    @without_autocast
    def forward(self, student: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Return the products."""
        return student @ student.T


def large() -> Tensor:
    """Return numbers whose products float16 cannot hold."""
    return 300 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@DTYPES
@pytest.mark.parametrize("by_keyword", [False, True])
def test_products_stay_in_float32(dtype: torch.dtype, by_keyword: bool) -> None:
    x = large()
    with torch.autocast("cpu", dtype):
        lowered = x @ x.T
        kept = Gram()(student=x) if by_keyword else Gram()(x)
        assert torch.is_autocast_enabled("cpu")
    assert lowered.dtype is dtype
    assert kept.dtype is torch.float32
    assert torch.equal(kept, x @ x.T)


@DTYPES
def test_a_compiler_takes_it_whole(dtype: torch.dtype) -> None:
    x = large()
    compiled = torch.compile(Gram(), backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype):
        found = compiled(student=x)
    assert torch.equal(found, x @ x.T)


@DTYPES
def test_a_hand_written_backward_is_as_exact(dtype: torch.dtype) -> None:
    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square().sum()

        @staticmethod
        @without_autocast
        def backward(ctx: Any, upstream: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * upstream * (x @ torch.eye(x.shape[1]))

    x = large().requires_grad_()
    with torch.autocast("cpu", dtype):
        Squared.apply(x).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * x.detach())


def test_what_comes_in_half_precision_stays_so() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Gram()(torch.ones(2, 2, dtype=torch.float16)).dtype is torch.float16


def test_without_a_tensor_or_on_a_device_without_autocast_it_is_the_function() -> None:
    seen = without_autocast(lambda *args: args)
    with torch.autocast("cpu", torch.bfloat16):
        assert seen(1, "a") == (1, "a")
        assert Gram()(torch.empty(2, 3, device="meta")).shape == (2, 2)


def test_the_signature_and_the_docstring_are_the_function_s() -> None:
    assert list(inspect.signature(Gram.forward).parameters) == ["self", "student", "teacher"]
    assert Gram.forward.__doc__ == "Return the products."
