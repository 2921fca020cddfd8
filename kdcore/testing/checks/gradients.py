"""Where gradients go, and whether they are right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from kdcore.component import Kind
from kdcore.testing.check import LOSSES, MODULES, SCALARS, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.nested import floating, mapped
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.steps import trainable
from kdcore.testing.subject import Subject, shown

OTHER = 7


@check(MODULES, "a gradient reaches every learning input and every parameter of its own", after=BASICS)
def gradient_reaches(subject: Subject) -> None:
    """Differentiate the value by the learning inputs and the parameters."""
    built, inputs = subject.build(), subject.inputs()
    names = subject.learns
    if not names and subject.kind in SCALARS:
        raise Finding("no input is known to be the student's: say in Example(learns=...) which a gradient must reach")
    leaves = {name: subject.learning(inputs, (name,)) for name in names}
    value = subject.value(built, inputs)
    parameters = {name: each for name, each in built.named_parameters() if each.requires_grad}
    if not leaves and not parameters:
        raise NotApplicable("it has no parameters, and no input that learns")
    for name, tensors in leaves.items():
        moved = [_moves(each) for each in _gradients(value, tensors)]
        if not all(moved):
            which = f"{name}[{moved.index(False)}]" if any(moved) else name
            raise Finding(
                f"no gradient reaches input {which}: nothing would train"
                + (f" there, though one reaches {name}[{moved.index(True)}]" if any(moved) else "")
                + ". Is it detached, rounded or compared? If it is not meant to learn, say in Example(learns=...) "
                "which inputs are"
            )
    for name, gradient in zip(parameters, _gradients(value, list(parameters.values())), strict=True):
        if gradient is None:
            raise Finding(
                f"no gradient reaches its parameter {name}: it would never train, and stop a run on several processes. "
                "Use it in forward, or make it a buffer"
            )


def _gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor | None]:
    if not leaves:
        return []
    if not value.requires_grad:
        return [None] * len(leaves)
    return list(torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True))


def _moves(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


@check(LOSSES, "no gradient reaches the teacher's inputs, in training or evaluation", after=BASICS)
def teacher_detached(subject: Subject) -> None:
    """Make the teacher's tensors want a gradient and see whether one comes, in either mode."""
    if not subject.fixed:
        raise NotApplicable("no input is the teacher's")
    for training in (True, False):
        built, inputs = subject.build().train(training), subject.inputs()
        subject.learning(inputs, subject.learns)
        for name in subject.fixed:
            leaves = subject.learning(inputs, (name,))
            if any(_moves(each) for each in _gradients(subject.value(built, inputs), leaves)):
                raise Finding(
                    f"a gradient reaches input {name}{'' if training else ' in eval mode'}: a teacher that is trained "
                    f"by another term would be pulled towards the student. Write {name}.detach(); if both sides are "
                    "meant to learn, say Example(fixed=())"
                )


@check(LOSSES, "another teacher gives another value", optional=True, after=BASICS)
def teacher_counts(subject: Subject) -> None:
    """Replace each of the teacher's inputs by other ones, and see whether the value notices, in either mode."""
    if not subject.fixed:
        raise NotApplicable("no input is the teacher's")
    for training in (True, False):
        inputs, others = subject.inputs(), subject.inputs(seed=OTHER)
        usual = subject.value(subject.build().train(training), inputs)
        for name in subject.fixed:
            try:
                found = subject.value(subject.build().train(training), {**inputs, name: others[name]})
            except ValueError:
                continue  # it noticed
            if torch.equal(found, usual):
                raise Finding(
                    f"with another {name} it returned {shown(found)} as before{'' if training else ' in eval mode'}: "
                    'nothing is learned from it. If it only counts at times, skip "teacher_counts" and say when'
                )


@check(
    MODULES,
    "gradients agree with finite differences in float64",
    optional=True,
    after=(*BASICS, "gradient_reaches"),
    strictly=("inputs_unchanged",),
)
def gradients(subject: Subject) -> None:
    """Compare with differences of the value along a random direction of all that learns."""
    if subject.kind is Kind.MODEL:
        raise NotApplicable("a model's gradients are torch's own")
    inputs = subject.inputs(dtype=torch.float64)
    leaves = [*subject.learning(inputs, subject.learns)]
    first = subject.build(torch.float64, prepared=True)
    parameters = {name: each.detach().clone().requires_grad_() for name, each in first.named_parameters()}
    if not leaves and not parameters:
        raise NotApplicable("it has no parameters, and no input that learns")

    def value(*moved: Tensor) -> Tensor:
        # A fresh instance per call, for what it remembers would change the function.
        given = _replaced({name: inputs[name] for name in subject.learns}, list(moved[: len(leaves)]))
        own = dict(zip(parameters, moved[len(leaves) :], strict=True))
        return subject.value(_Calling(subject.build(torch.float64, prepared=True), own), {**inputs, **given})

    _check_dtype(value(*leaves, *parameters.values()))
    try:
        torch.autograd.gradcheck(value, (*leaves, *parameters.values()), fast_mode=True, rtol=1e-3, atol=1e-6)
    except GradcheckError as error:
        said = str(error).strip().splitlines()[0]
        raise Finding(
            f"the gradient differs from finite differences of the value: {said}. Is something detached that the value "
            "depends on, or a hand-written backward wrong? What the first batch sets for good belongs into "
            "Example(prepare=...)"
        ) from error


def _check_dtype(value: Tensor) -> None:
    if value.dtype is not torch.float64:
        raise Finding(
            f"with float64 inputs and parameters it returned {str(value.dtype).removeprefix('torch.')}: whoever trains "
            "or tests in float64 gets rounded values. Compute on x.to(torch.promote_types(x.dtype, torch.float32)), "
            "which leaves float64 as it is, instead of x.float()"
        )


class _Calling:
    """A module called with other parameters than its own."""

    def __init__(self, built: nn.Module, parameters: dict[str, Tensor]) -> None:
        self.built = built
        self.parameters = parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.built, self.parameters, args, kwargs)


def _replaced(values: dict[str, Any], moved: list[Tensor]) -> dict[str, Any]:
    """Return `values` with their floating-point tensors replaced by those of `moved`, in order."""
    rest = iter(moved)
    return {
        name: mapped(lambda each: next(rest) if each.is_floating_point() else each, each)
        for name, each in values.items()
    }


def differentiated(subject: Subject, built: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Return the value and the gradients that reach the learning inputs and the parameters."""
    wanted = [*subject.learning(inputs, subject.learns), *trainable(built)]
    value = subject.value(built, inputs)
    found = _gradients(value, wanted)
    return value.detach(), floating([each for each in found if each is not None])
