"""Number formats: float32 against float64, and autocast."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdcore.component import Kind
from kdcore.contracts import flag_of
from kdcore.testing.check import LOSSES, MODULES, SCALARS, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.checks.gradients import differentiated
from kdcore.testing.nested import floating, mapped
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject, all_finite, shown

LARGE = 300
_OUTSIDE = (
    "autocast multiplies matrices in half precision. Put kdcore.precision.without_autocast on forward, and compute on "
    "x.to(torch.promote_types(x.dtype, torch.float32))"
)


@check(MODULES, "in float32 it returns float32, and nearly what it returns in float64", after=BASICS)
def float32(subject: Subject) -> None:
    """Compare the two formats."""
    exact = subject.value(subject.build(torch.float64), subject.inputs(dtype=torch.float64))
    built, inputs = subject.build(), subject.inputs()
    result = subject.call(built, inputs)
    found = subject.value(subject.build(), subject.inputs())
    wrong = [each.dtype for each in floating(result)[:1] if each.dtype is not torch.float32]
    if wrong and subject.kind in SCALARS:
        raise Finding(f"with float32 inputs it returned {wrong[0]}: a constant or buffer of another dtype took over")
    if not torch.allclose(found.double(), exact.double(), rtol=1e-3, atol=1e-4):
        raise Finding(
            f"in float32 it returned {shown(found)}, in float64 {shown(exact)}: digits are lost, often by subtracting "
            "large numbers or by the logarithm of a small one"
        )


@check(
    MODULES - {Kind.BALANCER},
    "under bfloat16 autocast value and gradients are finite and near, and a loss's value under float16 autocast",
    optional=True,
    after=BASICS,
)
def autocast(subject: Subject) -> None:
    """Compare with float32 on the same inputs, rounded to bfloat16; a loss also at numbers too large for float16."""
    _under_bfloat16(subject)
    if subject.kind in LOSSES:
        _under_float16(subject)


def _under_bfloat16(subject: Subject) -> None:
    built, inputs = subject.build(), mapped(_rounded, subject.inputs())
    expected = subject.value(subject.build(), inputs)
    if flag_of(built, "accepts_low_precision"):
        inputs = mapped(lambda each: each.bfloat16() if each.is_floating_point() else each, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = differentiated(subject, built, inputs)
    if not (all_finite(found) and all_finite(gradients)):
        raise Finding(
            f"under bfloat16 autocast it returned {shown(found)}, its gradients finite: {all_finite(gradients)}"
        )
    if subject.kind in SCALARS and not _near(found.float(), expected.detach().float()):
        raise Finding(f"under bfloat16 autocast it returned {shown(found)}, in float32 {shown(expected)}: {_OUTSIDE}")


def _under_float16(subject: Subject) -> None:
    """Compare the value at the example's numbers, and at such whose squares float16 cannot hold."""
    for scale in (1, LARGE):
        inputs = _changed(subject.inputs(), functools.partial(torch.mul, other=scale))
        try:
            expected = subject.value(subject.build(), inputs)
        except (ValueError, RuntimeError):
            if scale == 1:
                raise
            continue  # it wants probabilities, say, and nothing so large
        with torch.autocast("cpu", torch.float16):
            found = subject.value(subject.build(), inputs)
        if all_finite(expected) and not _near(found.float(), expected.float()):
            raise Finding(
                f"under float16 autocast it returned {shown(found)}, in float32 {shown(expected)}"
                + (f", with its inputs multiplied by {scale}" if scale > 1 else "")
                + f": {_OUTSIDE}"
            )


@check(
    LOSSES,
    "float16 and bfloat16 inputs give, bit for bit, the value that the same numbers give in float32",
    optional=True,
    after=(*BASICS, "float32"),
)
def half_precision(subject: Subject) -> None:
    """Compare value and gradients at the example's numbers, and at such whose squares float16 cannot hold."""
    for dtype, scale in ((torch.bfloat16, 1), (torch.float16, LARGE)):
        inputs, expected, exact = _halved(subject, dtype, scale)
        found, gradients = differentiated(subject, subject.build(), inputs)
        named = str(dtype).removeprefix("torch.")
        if found.dtype is not torch.float32 or not torch.equal(found, expected):
            raise Finding(
                f"with {named} inputs it returned {shown(found)} in {str(found.dtype).removeprefix('torch.')}, with "
                f"the same numbers in float32 {shown(expected)}: models do run in half precision. Compute on "
                "x.to(torch.promote_types(x.dtype, torch.float32))"
            )
        for half, single in zip(gradients, exact, strict=True):
            rounded, right = (each.to(half.dtype).float().nan_to_num() for each in (half, single))
            # Converted twice, an input gets the sum of two rounded gradients, each off by a step of the format.
            format_ = torch.finfo(dtype)
            step = format_.eps * format_.smallest_normal * right.numel() ** 0.5
            if (rounded - right).norm() > 2 * (format_.eps * right.norm() + step):
                raise Finding(
                    f"with {named} inputs the gradient is not nearly the one in float32: something is computed "
                    "before the inputs become float32, or a hand-written backward rounds"
                )


def _halved(subject: Subject, dtype: torch.dtype, scale: int) -> tuple[dict[str, Any], Tensor, list[Tensor]]:
    """Return inputs in a half precision, and value and gradients of the same numbers in float32."""
    inputs = _changed(subject.inputs(), lambda each: (scale * each).to(dtype))
    with contextlib.suppress(*(() if scale == 1 else (ValueError, RuntimeError))):
        value, gradients = differentiated(subject, subject.build(), _changed(inputs, torch.Tensor.float))
        if scale == 1 or all_finite(value):
            return inputs, value, gradients
    return _halved(subject, dtype, 1)  # it wants probabilities, say, and nothing so large


def _changed(inputs: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return the inputs with their floating-point tensors changed, and everything else, modules too, as it was."""
    return {
        name: mapped(lambda each: change(each.detach()) if each.is_floating_point() else each, value)
        for name, value in inputs.items()
    }


def _near(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=0.1, atol=0.02))


def _rounded(each: Tensor) -> Tensor:
    return each.bfloat16().to(each.dtype) if each.is_floating_point() else each
