"""Inputs at the edge: zeros, dead channels, a single sample."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
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


# A gradient that is divided by a small constant is larger by orders of magnitude.
STEEPEST = 1e3


@check(
    TENSORS,
    "zeros on either side, on both or in one sample give finite values and gradients, or a ValueError",
    optional=True,
    after=(*BASICS, "student_equals_teacher"),
)
def zeros(subject: Subject) -> None:
    """Set the student's tensors to zero, the teacher's, both, and one sample of the student's."""
    for inputs, how in _zeros(subject):
        attempt(subject, inputs, how)


def _zeros(subject: Subject, dtype: torch.dtype = torch.float32) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield inputs with zeros, and where these are."""
    learns, fixed = subject.learns, subject.fixed
    for side in (learns, fixed, (*learns, *fixed) if learns and fixed else ()):
        if side:
            inputs = subject.inputs(dtype=dtype)
            yield {**inputs, **zeroed(inputs, side)}, f"with {', '.join(side)} all zeros"
    for name in learns:
        inputs, dim = subject.inputs(dtype=dtype), subject.batch_dim(name)
        if dim is not None:
            changed = mapped(functools.partial(_without_first, dim=dim), inputs[name])
            yield {**inputs, name: changed}, f"with the first sample of {name} all zeros"


@check(TENSORS, "a dead channel gives finite values and gradients, or a ValueError", optional=True, after=BASICS)
def dead_channels(subject: Subject) -> None:
    """Set one channel to zero in all samples, on every side."""
    attempt(subject, *_dead_channels(subject))


def _dead_channels(subject: Subject, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Any], str]:
    inputs = subject.inputs(dtype=dtype)
    sides = [
        name for name in (*subject.learns, *subject.fixed) if any(each.dim() > 1 for each in floating(inputs[name]))
    ]
    if not sides:
        raise NotApplicable("none of its inputs has channels")
    changed = {name: mapped(_dead, inputs[name]) for name in sides}
    return {**inputs, **changed}, f"with channel 0 of {', '.join(sides)} dead"


@check(
    LOSSES,
    "at zeros and dead channels gradients stay as large as elsewhere",
    optional=True,
    after=(*BASICS, "zeros", "dead_channels"),
)
def gradient_bounded(subject: Subject) -> None:
    """Compare the largest gradient at the edges with that at the example's own inputs, in float64."""
    _, usual = differentiated(subject, subject.build(torch.float64), subject.inputs(dtype=torch.float64))
    edges = [*_zeros(subject, torch.float64)]
    with contextlib.suppress(NotApplicable):
        edges.append(_dead_channels(subject, torch.float64))
    for inputs, how in edges:
        try:
            _, found = differentiated(subject, subject.build(torch.float64), inputs)
        except ValueError:
            continue  # a clear refusal
        if not largest(found) <= STEEPEST * largest(usual):
            raise Finding(
                f"{how} the largest gradient is {largest(found):.2g}, and {largest(usual):.2g} with the example's own "
                "inputs: one such batch undoes a training. Dividing by a norm plus a small constant does it, as "
                "F.normalize does; divide by torch.where(norm > eps, norm, 1), which leaves zeros as they are"
            )


def largest(gradients: list[Tensor]) -> float:
    """Return the largest absolute number in gradients; NaN where one is NaN."""
    return float(
        torch.stack([each.abs().max().double() for each in gradients if each.numel()] or [torch.zeros(())]).max()
    )


@check(
    MODULES - {Kind.BALANCER},
    "a batch of one gives finite values and gradients, or a ValueError",
    optional=True,
    after=BASICS,
)
def batch_of_one(subject: Subject) -> None:
    """Call it with a single sample."""
    attempt(subject, subject.inputs(batch=1), "with a batch of one sample")


def attempt(subject: Subject, inputs: dict[str, Any], how: str) -> None:
    """Call it and differentiate; a ValueError is a clear refusal. Raises Finding where something is not finite."""
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


def zeroed(inputs: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the inputs so named with all their numbers zero."""
    return {name: mapped(_zero, inputs[name]) for name in names}


def _zero(each: Tensor) -> Tensor:
    return torch.zeros_like(each) if each.is_floating_point() else each


def _without_first(each: Tensor, dim: int) -> Tensor:
    if not each.is_floating_point() or each.dim() <= dim:
        return each
    changed = each.clone()
    changed.select(dim, 0).zero_()
    return changed


def _dead(each: Tensor) -> Tensor:
    if not each.is_floating_point() or each.dim() < 2:
        return each
    dead = each.clone()
    dead[:, 0] = 0
    return dead
