"""What a wrapper owes the losses within."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from kdcore.component import Input, Kind
from kdcore.contracts import Facts, LossFactory, method_of, set_up
from kdcore.testing.check import check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.result import Finding
from kdcore.testing.steps import PER_EPOCH, STEPS
from kdcore.testing.subject import Subject


class Told(nn.Module):
    """A loss around another that notes what it was told."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.facts: Facts | None = None
        self.paced: tuple[int, int, int] | None = None
        self.called = False

    def setup(self, facts: Facts) -> None:
        """Note the facts."""
        self.facts = facts
        set_up(self.loss, facts)

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        """Note how far the stage is."""
        self.paced = (step, total_steps, epoch)

    def forward(self, **inputs: Any) -> Any:
        """Return the loss."""
        self.called = True
        return self.loss(**inputs)


@dataclass
class ToldFactory:
    """Makes losses that note what they were told."""

    within: LossFactory

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of the loss within."""
        return self.within.inputs

    def __call__(self) -> nn.Module:
        """Make a loss."""
        return Told(self.within())


@check({Kind.WRAPPER}, "the losses within learn the facts of setup, and how far the stage is", after=BASICS)
def passes_on(subject: Subject) -> None:
    """Wrap a loss that notes what it is told."""
    told = replace(subject, example=replace(subject.given, wraps=ToldFactory(subject.wraps)))
    built, paced = told.build(), (PER_EPOCH, STEPS, 1)
    progress = method_of(built, "progress")
    if progress is not None:
        progress(*paced)
    told.call(built, told.inputs())
    losses = [each for each in built.modules() if isinstance(each, Told) and each.called]
    if not losses:
        raise Finding(
            "no submodule that make_loss() made was called: what the loss learns would not be trained or saved"
        )
    inputs = {each.name for each in subject.wraps.inputs if each.required}
    for loss in losses:
        if loss.facts is None or not inputs <= set(loss.facts.inputs):
            raise Finding(
                "a loss within was not told the facts of its inputs, so that it cannot make its parameters: define "
                "setup(facts) and call kdcore.contracts.set_up(self.loss, facts), with facts.inputs as it gets them"
            )
        if loss.paced != paced:
            raise Finding(
                "a loss within was not told the progress, so that its warm-up or schedule stands still: define "
                "progress(step, total_steps, epoch) and call that of each loss within, where it has one"
            )
