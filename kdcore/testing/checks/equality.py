"""A student equal to its teacher, and one that nearly is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdcore.testing.check import LOSSES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.checks.degenerate import attempt, largest, zeroed
from kdcore.testing.checks.gradients import differentiated
from kdcore.testing.nested import floating, mapped
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject, shown

# What rounding may leave of the value or gradient that the example's own inputs have.
REMAINS = {torch.float64: 1e-6, torch.float32: 1e-5}
DISTANCE = 1e-3
# Relative errors of value and gradient at that distance; the first also of the value at the example's own inputs, for a
# difference of logarithms is rounded as these are.
VALUE, GRADIENT, ROUNDING = 1e-2, 1e-2, 1e-5


@check(LOSSES, "a student equal to its teacher gives finite values and gradients", after=BASICS)
def student_equals_teacher(subject: Subject) -> None:
    """Give the student's tensors to the teacher's inputs, where the shapes agree."""
    inputs, how = equal_inputs(subject)
    attempt(subject, inputs, how)


@check(
    LOSSES,
    "a student equal to its teacher costs nothing",
    optional=True,
    after=(*BASICS, "student_equals_teacher"),
)
def equal_value(subject: Subject) -> None:
    """Compare the value there with what the example's own inputs cost, in float64 and float32."""
    for dtype, remains in REMAINS.items():
        inputs, how = equal_inputs(subject, dtype, taught=True)
        found = subject.value(subject.build(dtype), inputs)
        usual = subject.value(subject.build(dtype), subject.inputs(dtype=dtype))
        if found.abs() > remains * (usual.abs() or 1):
            raise Finding(
                f"{how} it returned {shown(found)}, and {shown(usual)} with the example's own inputs: a student that "
                'has learned everything costs 0. If that is not the minimum of this method, skip "equal_value" and say '
                "why"
            )


@check(
    LOSSES,
    "zeros on both sides cost nothing, as any equal sides do",
    optional=True,
    after=(*BASICS, "student_equals_teacher", "equal_value"),
)
def equal_zeros(subject: Subject) -> None:
    """Set both sides to zero, where equality costs nothing."""
    if "equal_value" in subject.given.skip:
        raise NotApplicable("equal sides cost something anyway")
    if subject.given.equal is not None:
        raise NotApplicable("equality means something else than the same tensors")
    inputs = subject.inputs(dtype=torch.float64)
    names = [each for pair in _pairs(subject, inputs, taught=True) for each in pair]
    try:
        found = subject.value(subject.build(torch.float64), {**inputs, **zeroed(inputs, names)})
    except ValueError:
        return  # a clear refusal
    usual = subject.value(subject.build(torch.float64), inputs)
    if found.abs() > REMAINS[torch.float64] * (usual.abs() or 1):
        raise Finding(
            f"with {' and '.join(names)} all zeros it returned {shown(found)}, though equal sides cost nothing "
            'otherwise. Treat the case apart; if it is meant, skip "equal_zeros" and say why'
        )


@check(
    LOSSES,
    "a student equal to its teacher is not moved",
    optional=True,
    after=(*BASICS, "student_equals_teacher"),
)
def equal_gradient(subject: Subject) -> None:
    """Compare the gradient there with that at the example's own inputs, in float64 and float32."""
    for dtype, remains in REMAINS.items():
        inputs, how = equal_inputs(subject, dtype, taught=True)
        _, found = differentiated(subject, subject.build(dtype), inputs)
        _, usual = differentiated(subject, subject.build(dtype), subject.inputs(dtype=dtype))
        if largest(found) > remains * largest(usual):
            raise Finding(
                f"{how} the largest gradient is {largest(found):.2g}, and {largest(usual):.2g} with the example's own "
                "inputs: a student that has learned everything would be moved away. If this method asks for more than "
                'equality, skip "equal_gradient" and say why'
            )


@check(
    LOSSES,
    "close to equality float32 keeps the digits of value and gradient",
    optional=True,
    after=(*BASICS, "student_equals_teacher", "float32"),
)
def near_equality(subject: Subject) -> None:
    """Move an equal student by a thousandth, and compare float32 with float64 on the same numbers."""
    inputs, _ = equal_inputs(subject)
    exact_inputs, _ = equal_inputs(subject, torch.float64)
    value, gradients = differentiated(subject, subject.build(), _moved(subject, inputs))
    exact, expected = differentiated(subject, subject.build(torch.float64), _moved(subject, exact_inputs))
    usual = subject.value(subject.build(), subject.inputs()).detach()
    bound = subject.given.near_equality
    allowed = VALUE * exact.abs() + ROUNDING * usual.abs() if bound is None else bound * exact.abs()
    where = f"with a student {DISTANCE} away from its teacher"
    if (value - exact).abs() > allowed:
        raise Finding(
            f"{where} float32 gave {shown(value)} and float64 {shown(exact)}: its digits are lost in the difference of "
            "larger numbers; subtract the inputs before anything else, as far as the formula lets you"
        )
    for found, right in zip(gradients, expected, strict=True):
        wrong = float((found - right).norm() / right.norm()) if right.any() else 0.0
        if wrong > GRADIENT:
            raise Finding(
                f"{where} the gradient in float32 is {wrong:.1%} off the one in float64: the end of training would "
                "follow rounding. Subtract the inputs before anything else, as far as the formula lets you"
            )


def equal_inputs(
    subject: Subject, dtype: torch.dtype = torch.float32, *, taught: bool = False
) -> tuple[dict[str, Any], str]:
    """Return inputs at which both sides agree, and how that came about; if `taught`, only with a teacher's inputs.

    Raises NotApplicable where nothing says what it means that they agree.
    """
    if subject.given.equal is not None:
        return subject.inputs(dtype=dtype, equal=True), "with a student equal to its teacher"
    inputs = subject.inputs(dtype=dtype)
    pairs = _pairs(subject, inputs, taught=taught)
    changed = {other: mapped(lambda each: each.detach().clone(), inputs[one]) for one, other in pairs}
    return {**inputs, **changed}, f"with {' and '.join(f'{other} equal to {one}' for one, other in pairs)}"


def _pairs(subject: Subject, inputs: Mapping[str, Any], *, taught: bool) -> list[tuple[str, str]]:
    others = [*subject.fixed]
    if not taught:  # of a target nobody knows that a student should equal it: it may be signs or probabilities
        others += [name for name in ("target", "input2") if name in inputs and name not in subject.learns]
    pairs = [
        (one, other) for one, other in zip(subject.learns, others, strict=False) if _alike(inputs[one], inputs[other])
    ]
    if not pairs:
        which = "inputs of a student and a teacher" if taught else "two inputs"
        raise NotApplicable(f"there are no {which} of one shape")
    return pairs


def _alike(one: Any, other: Any) -> bool:
    shapes = [[tuple(each.shape) for each in floating(value)] for value in (one, other)]
    return bool(shapes[0]) and shapes[0] == shapes[1]


def _moved(subject: Subject, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with the learning ones moved, by the same float32 numbers whatever their dtype."""
    generator = torch.Generator().manual_seed(1)

    def move(each: Tensor) -> Tensor:
        if not each.is_floating_point():
            return each
        return (each.float() + DISTANCE * torch.randn(each.shape, generator=generator)).to(each.dtype)

    return {**inputs, **{name: mapped(move, inputs[name]) for name in subject.learns}}
