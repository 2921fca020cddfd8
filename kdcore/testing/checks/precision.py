"""Number formats: float32 against float64, and autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore.component import Kind
from kdcore.testing.check import MODULES, SCALARS, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.checks.gradients import differentiated
from kdcore.testing.nested import floating, mapped
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject, all_finite, shown


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
    "under bfloat16 autocast value and gradients are finite and near",
    optional=True,
    after=BASICS,
)
def autocast(subject: Subject) -> None:
    """Compare with float32 on the same inputs, rounded to bfloat16."""
    built, inputs = subject.build(), mapped(_rounded, subject.inputs())
    expected = subject.value(subject.build(), inputs)
    if getattr(built, "accepts_low_precision", False):
        inputs = mapped(lambda each: each.bfloat16() if each.is_floating_point() else each, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = differentiated(subject, built, inputs)
    if not (all_finite(found) and all_finite(gradients)):
        raise Finding(
            f"under bfloat16 autocast it returned {shown(found)}, its gradients finite: {all_finite(gradients)}"
        )
    if subject.kind in SCALARS and not _near(found.float(), expected.detach().float()):
        raise Finding(
            f"under bfloat16 autocast it returned {shown(found)}, in float32 {shown(expected)}: compute in float32, "
            "for example on inputs.float() with autocast disabled"
        )


def _near(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=0.1, atol=0.02))


def _rounded(each: Tensor) -> Tensor:
    return each.bfloat16().to(each.dtype) if each.is_floating_point() else each
