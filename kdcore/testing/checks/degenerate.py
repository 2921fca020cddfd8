"""Inputs at the edge: zeros, dead channels, a student like its teacher, a single sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdcore.component import Kind
from kdcore.testing.check import LOSSES, MODULES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.checks.gradients import differentiated
from kdcore.testing.nested import floating, mapped
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject, all_finite, shown

TENSORS = MODULES - {Kind.BALANCER, Kind.MODEL}


@check(TENSORS, "zeros on either side give finite values and gradients, or a ValueError", optional=True, after=BASICS)
def zeros(subject: Subject) -> None:
    """Set the student's tensors to zero, then the teacher's."""
    for side in (subject.learns, subject.fixed):
        inputs = subject.inputs()
        if side:
            changed = {name: mapped(_zero, inputs[name]) for name in side}
            _try(subject, {**inputs, **changed}, f"with {', '.join(side)} all zeros")


@check(TENSORS, "a dead channel gives finite values and gradients, or a ValueError", optional=True, after=BASICS)
def dead_channels(subject: Subject) -> None:
    """Set one channel to zero in all samples, on every side."""
    inputs = subject.inputs()
    sides = [
        name for name in (*subject.learns, *subject.fixed) if any(each.dim() > 1 for each in floating(inputs[name]))
    ]
    if not sides:
        raise NotApplicable("none of its inputs has channels")
    changed = {name: mapped(_dead, inputs[name]) for name in sides}
    _try(subject, {**inputs, **changed}, f"with channel 0 of {', '.join(sides)} dead")


@check(LOSSES, "a student equal to its teacher gives finite values and gradients", after=BASICS)
def student_equals_teacher(subject: Subject) -> None:
    """Give the student's tensors to the teacher's inputs, where the shapes agree."""
    if subject.given.equal is not None:
        return _try(subject, subject.inputs(equal=True), "with a student equal to its teacher")
    inputs = subject.inputs()
    others = [*subject.fixed, *(name for name in ("target", "input2") if name in inputs and name not in subject.learns)]
    pairs = [
        (one, other) for one, other in zip(subject.learns, others, strict=False) if _alike(inputs[one], inputs[other])
    ]
    if not pairs:
        raise NotApplicable("there are no two inputs of one shape")
    changed = {other: mapped(lambda each: each.detach().clone(), inputs[one]) for one, other in pairs}
    return _try(
        subject, {**inputs, **changed}, f"with {' and '.join(f'{other} equal to {one}' for one, other in pairs)}"
    )


@check(
    MODULES - {Kind.BALANCER},
    "a batch of one gives finite values and gradients, or a ValueError",
    optional=True,
    after=BASICS,
)
def batch_of_one(subject: Subject) -> None:
    """Call it with a single sample."""
    _try(subject, subject.inputs(batch=1), "with a batch of one sample")


def _try(subject: Subject, inputs: dict[str, Any], how: str) -> None:
    try:
        value, gradients = differentiated(subject, subject.build(), inputs)
    except ValueError:
        return  # a clear refusal
    if not all_finite(value):
        raise Finding(f"{how} it returned {shown(value)}: add a small constant, or treat the case apart")
    if not all_finite(gradients):
        raise Finding(
            f"{how} it returned {shown(value)}, but its gradient is not finite: one such batch ends a "
            "run. The root and the norm have no slope at 0: torch.linalg.vector_norm and F.normalize see to it, sqrt "
            "does not"
        )


def _zero(each: Tensor) -> Tensor:
    return torch.zeros_like(each) if each.is_floating_point() else each


def _dead(each: Tensor) -> Tensor:
    if not each.is_floating_point() or each.dim() < 2:
        return each
    dead = each.clone()
    dead[:, 0] = 0
    return dead


def _alike(one: Any, other: Any) -> bool:
    shapes = [[tuple(each.shape) for each in floating(value)] for value in (one, other)]
    return bool(shapes[0]) and shapes[0] == shapes[1]
