"""A loss where it is used: as a term of an Objective."""

from __future__ import annotations

import torch
from torch import nn

from kdcore.component import Kind
from kdcore.testing.check import check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.nested import mapped
from kdcore.testing.randomness import seeded
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.staged import TERM, Staged
from kdcore.testing.subject import Subject, mean_of, shown
from kdcore.testing.use import overwrite

OTHER = 7


@check(
    {Kind.LOSS},
    "in an Objective, its inputs bound to addresses, it gives what it gives when it is called, and so do its gradients",
    after=(*BASICS, "gradient_reaches", "state_continues"),
    strictly=("inputs_unchanged", "graphs_released", "instances_apart"),
)
def in_objective(subject: Subject) -> None:
    """Build a stage around it, and compare a later batch's value and gradients with those of a fresh instance."""
    staged = Staged(subject, subject.inputs(OTHER))
    student = staged.student
    if not len(student.leaves):
        raise NotApplicable("none of its inputs is the student's")
    with seeded():
        objective = staged.objective(student)
    fresh = _fresh(subject, objective.losses[TERM])
    overwrite(staged.inputs, subject.inputs())  # the batch that it was built with is another
    with seeded(1):
        out = objective(staged.batch)
    out.total.backward()
    inputs = {name: mapped(lambda each: each.detach().clone(), value) for name, value in staged.inputs.items()}
    leaves = subject.learning(inputs, tuple(name for name in inputs if name in subject.learns))
    value = mean_of(subject.call(fresh, inputs, seed=1))
    if not torch.equal(out.terms[TERM], value.detach().float()):
        raise Finding(
            f"as a term of an Objective it has the value {shown(out.terms[TERM])}, called with the same inputs "
            f"{shown(value)}: the batch that the Objective was built with left something in it. Keep what it remembers "
            "in buffers, which are put back"
        )
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    for found, expected in zip(student.leaves, gradients, strict=True):
        if expected is not None and (found.grad is None or not torch.equal(found.grad, expected.to(found.dtype))):
            raise Finding("as a term of an Objective it gives the student other gradients than called with its inputs")


def _fresh(subject: Subject, used: nn.Module) -> nn.Module:
    """Return a fresh instance with the parameters and buffers of another, and nothing else of it."""
    built: nn.Module = subject.build()
    with torch.no_grad():
        for mine, theirs in ((built.parameters(), used.parameters()), (built.buffers(), used.buffers())):
            for one, other in zip(mine, theirs, strict=True):
                one.copy_(other)
    return built
