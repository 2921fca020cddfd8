"""Divergences between two batches of logits, computed at once or block by block.

Small inputs are computed at once, the gradient together with the value, so that a step on ten
classes costs few operations.

At 2,048 positions of 128,000 classes one float32 buffer holds a gigabyte, and the textbook form
keeps several of them until the backward pass. Beyond one block, nothing of that size is kept here
beside the two inputs, and nothing but the gradient is made: both passes walk over blocks that are
small enough for their intermediate results to stay in the cache, and the backward pass computes its
softmax again instead of keeping it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Elements per block. A CPU wants its cache, a GPU enough work per kernel to hide its launch.
CPU_BLOCK = 2**18
DEVICE_BLOCK = 2**25

Index = tuple[int | slice, ...]


class Divergence(NamedTuple):
    """A divergence over dimension `dim` of two tensors of logits, and its gradient for the first.

    `both` returns what adds up to the value along `dim`, and the gradient, in one go.
    """

    value: Callable[[Tensor, Tensor, int], Tensor]
    gradient: Callable[[Tensor, Tensor, int], Tensor]
    both: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def divergence(student: Tensor, teacher: Tensor, *, kind: str, temperature: float = 1.0, dim: int = -1) -> Tensor:
    """Return D(teacher / T, student / T) of every distribution.

    The gradient reaches the student only.

    Arguments:
        student: logits, classes along `dim`.
        teacher: logits of the same shape.
        kind: a key of `DIVERGENCES`.
        temperature: T > 0, divides the logits of both.
        dim: the dimension of the classes.

    Returns the shape without `dim`, in float64 where an input is float64, else in float32.
    """
    from_end = dim - student.dim() if dim >= 0 else dim
    teacher = teacher.detach()
    # A compiler fuses the plain form by itself; a loop over blocks would only unroll.
    if torch.compiler.is_compiling():
        return _value(student, teacher, kind, temperature, from_end)
    if student.numel() <= _block_size(student):
        at_once: Tensor = _AtOnce.apply(student, teacher, kind, temperature, from_end)  # type: ignore[no-untyped-call]
        return at_once
    losses: Tensor = _Blockwise.apply(student, teacher, kind, temperature, from_end)  # type: ignore[no-untyped-call]
    return losses


def total_divergence(
    student: Tensor, teacher: Tensor, *, kind: str, temperature: float = 1.0, dim: int = -1, scale: float = 1.0
) -> Tensor:
    """Return the sum of `divergence` over all distributions, times `scale`: fewer operations where there are few."""
    if student.numel() > _block_size(student) or torch.compiler.is_compiling():
        return divergence(student, teacher, kind=kind, temperature=temperature, dim=dim).sum() * scale
    total: Tensor = _Total.apply(student, teacher.detach(), kind, temperature, dim, scale)  # type: ignore[no-untyped-call]
    return total


class _Total(torch.autograd.Function):
    """The scaled sum of all divergences, whose gradient is made together with it."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, kind: str, temperature: float, dim: int, scale: float
    ) -> Tensor:
        dtype = _computed_in(student, teacher)
        s, t = _softened(student, temperature, dtype), _softened(teacher, temperature, dtype)
        if not ctx.needs_input_grad[0]:
            return DIVERGENCES[kind].value(s, t, dim).sum() * scale
        parts, gradient = DIVERGENCES[kind].both(s, t, dim)
        ctx.arguments = kind, temperature, dim, scale
        ctx.save_for_backward(student, teacher, gradient)
        return parts.sum() * scale

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        student, teacher, gradient = ctx.saved_tensors
        kind, temperature, dim, scale = ctx.arguments
        if torch.is_grad_enabled():  # a second derivative is wanted, so the gradient needs a graph of its own
            value = _value(student, teacher, kind, temperature, dim).sum() * scale
            (exact,) = torch.autograd.grad(value, student, upstream, create_graph=True)
            return exact, None, None, None, None, None
        scaled = gradient * (upstream * (scale / temperature))
        return scaled.to(student.dtype), None, None, None, None, None


class _AtOnce(torch.autograd.Function):
    """A divergence whose gradient is made together with its value and kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, kind: str, temperature: float, dim: int) -> Tensor:
        dtype = _computed_in(student, teacher)
        s, t = _softened(student, temperature, dtype), _softened(teacher, temperature, dtype)
        if not ctx.needs_input_grad[0]:
            return DIVERGENCES[kind].value(s, t, dim)
        parts, gradient = DIVERGENCES[kind].both(s, t, dim)
        ctx.kind, ctx.temperature, ctx.dim = kind, temperature, dim
        ctx.save_for_backward(student, teacher, gradient)
        return parts.sum(dim)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        student, teacher, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted, so the gradient needs a graph of its own
            return _differentiable(ctx, student, teacher, upstream), None, None, None, None
        scaled = gradient * (upstream / ctx.temperature).unsqueeze(ctx.dim)
        return scaled.to(student.dtype), None, None, None, None


def _differentiable(ctx: Any, student: Tensor, teacher: Tensor, upstream: Tensor) -> Tensor:
    value = _value(student, teacher, ctx.kind, ctx.temperature, ctx.dim)
    (gradient,) = torch.autograd.grad(value, student, upstream, create_graph=True)
    return gradient


class _Blockwise(torch.autograd.Function):
    """A divergence and its gradient, one block of distributions after the other."""

    @staticmethod
    def forward(student: Tensor, teacher: Tensor, kind: str, temperature: float, dim: int) -> Tensor:
        shape = student.shape[:dim] + student.shape[student.dim() + dim + 1 :]
        losses = student.new_empty(shape, dtype=_computed_in(student, teacher))
        for block in _blocks(student, dim):
            losses[block] = _value(student[block], teacher[block], kind, temperature, dim)
        return losses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        student, teacher, ctx.kind, ctx.temperature, ctx.dim = inputs
        ctx.save_for_backward(student, teacher)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        student, teacher = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted, so the gradient needs a graph of its own
            return _differentiable(ctx, student, teacher, upstream), None, None, None, None
        dtype, dim = upstream.dtype, ctx.dim
        scale = (upstream / ctx.temperature).unsqueeze(dim)
        gradient = torch.empty_like(student)
        for block in _blocks(student, dim):
            s, t = (_softened(logits[block], ctx.temperature, dtype) for logits in (student, teacher))
            gradient[block] = DIVERGENCES[ctx.kind].gradient(s, t, dim).mul_(scale[block])
        return gradient, None, None, None, None


def _kl(s: Tensor, t: Tensor, dim: int) -> Tensor:
    log_p = t.log_softmax(dim)
    p = log_p.exp()
    # Classes that the teacher excludes (a logit of -inf) count 0, although their logarithm does not exist.
    return log_p.sub_(s.log_softmax(dim)).mul_(p).masked_fill_(p == 0, 0).sum(dim)


def _kl_both(s: Tensor, t: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    log_p, log_q = t.log_softmax(dim), s.log_softmax(dim)
    p = log_p.exp()
    parts = log_p.sub_(log_q).mul_(p).masked_fill_(p == 0, 0)
    return parts, log_q.exp_().sub_(p)


def _cross_entropy(s: Tensor, t: Tensor, dim: int) -> Tensor:
    p = t.softmax(dim)
    # Not in place: the logarithm's own gradient needs it unchanged.
    return (s.log_softmax(dim) * p).masked_fill_(p == 0, 0).sum(dim).neg()


def _cross_entropy_both(s: Tensor, t: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    p, log_q = t.softmax(dim), s.log_softmax(dim)
    parts = (log_q * p).masked_fill_(p == 0, 0).neg_()
    return parts, log_q.exp_().sub_(p)


def _softmax_difference(s: Tensor, t: Tensor, dim: int) -> Tensor:
    return s.softmax(dim).sub_(t.softmax(dim))


def _squared_distance(s: Tensor, t: Tensor, dim: int) -> Tensor:
    return (s - t).square().sum(dim)


def _twice_difference(s: Tensor, t: Tensor, dim: int) -> Tensor:
    return (s - t).mul_(2)


def _squared_distance_both(s: Tensor, t: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    difference = s - t
    return difference.square(), difference.mul_(2)


DIVERGENCES = {
    "kl": Divergence(_kl, _softmax_difference, _kl_both),
    "cross_entropy": Divergence(_cross_entropy, _softmax_difference, _cross_entropy_both),
    "mse": Divergence(_squared_distance, _twice_difference, _squared_distance_both),
}


def _computed_in(student: Tensor, teacher: Tensor) -> torch.dtype:
    if student.dtype is teacher.dtype is torch.float32:
        return torch.float32
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)


def _softened(logits: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    if logits.dtype is not dtype:
        logits = logits.to(dtype)
    return logits if temperature == 1 else logits / temperature


def _value(student: Tensor, teacher: Tensor, kind: str, temperature: float, dim: int) -> Tensor:
    dtype = _computed_in(student, teacher)
    s, t = (_softened(logits, temperature, dtype) for logits in (student, teacher))
    return DIVERGENCES[kind].value(s, t, dim)


def _block_size(logits: Tensor) -> int:
    return CPU_BLOCK if logits.device.type == "cpu" else DEVICE_BLOCK


def _blocks(logits: Tensor, dim: int) -> Iterator[Index]:
    """Yield indices of the dimensions before `dim` that together cover all distributions."""
    return _split(logits.shape[:dim], math.prod(logits.shape[dim:]), _block_size(logits))


def _split(leading: tuple[int, ...], inner: int, limit: int) -> Iterator[Index]:
    """Split `leading` dimensions, `inner` elements to an entry, into blocks of `limit` elements, or of one entry."""
    if not leading or math.prod(leading) * inner <= limit:
        yield ()
        return
    size = math.prod(leading[1:]) * inner
    if size > limit:
        for index in range(leading[0]):
            for rest in _split(leading[1:], inner, limit):
                yield (index, *rest)
    else:
        step = limit // size
        for start in range(0, leading[0], step):
            yield (slice(start, start + step),)
