"""What a component remembers: saved and resumed, copied, left alone in evaluation."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.component import Kind
from kdcore.contracts import flag_of
from kdcore.pipeline.readable import ALLOWED, MEND, unreadable
from kdcore.testing.check import ALL, MODULES, SCALARS, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.nested import tensors
from kdcore.testing.pickled import pickled
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.steps import PER_EPOCH, step
from kdcore.testing.subject import Subject, shown

BEFORE = 2 * PER_EPOCH + 1


@check(
    MODULES,
    "saved and loaded into a fresh instance it goes on to the same bits",
    after=(*BASICS, "parameters_early"),
    strictly=("instances_apart",),
)
def state_continues(subject: Subject) -> None:
    """Train some steps, save, load, and compare the next steps."""
    original = subject.build()
    for number in range(BEFORE):
        step(subject, original, number)
    state = reread(original.state_dict())
    resumed = subject.build()
    resumed.load_state_dict(state)
    for number in range(BEFORE, BEFORE + PER_EPOCH + 1):
        expected, found = step(subject, original, number), step(subject, resumed, number)
        if not torch.equal(expected.nan_to_num(), found.nan_to_num()):
            raise Finding(
                f"after {BEFORE} steps, saved and loaded into a fresh instance, step {number + 1} gave "
                f"{shown(found)} instead of {shown(expected)}: what it remembers is not in its state_dict. Keep it in "
                "buffers"
            )


def reread(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as a checkpoint gives it back."""
    for key, value in state.items():
        for where, kind in unreadable(value, key):
            raise Finding(
                f"what it remembers could be written to a checkpoint and not be read: {where} is of type {kind}, and "
                f"{ALLOWED} are allowed; {MEND}"
            )
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


@check(
    ALL - {Kind.MODEL},
    "it can be copied and pickled, and a copy shares nothing",
    after=("builds", "finite", "deterministic"),
    strictly=("instances_apart",),
)
def copies(subject: Subject) -> None:
    """Compare the copy's next step with the original's."""
    for how, duplicate in (("copy.deepcopy", copy.deepcopy), ("pickle", pickled)):
        original = subject.build()
        try:
            twin = duplicate(original)
        except Exception as error:  # copying may fail in any way; the cause is chained and named
            raise Finding(
                f"{how} failed: {type(error).__name__}: {error}. Keep no lambdas, generators, open files "
                "or local classes as attributes: a model's copy and worker processes need it"
            ) from error
        if isinstance(original, nn.Module) and subject.given.inputs is not None:
            _compare(subject, original, twin, how)


def _compare(subject: Subject, original: nn.Module, twin: nn.Module, how: str) -> None:
    shared = {each.data_ptr() for each in original.state_dict().values() if isinstance(each, Tensor) and each.numel()}
    for name, value in twin.state_dict().items():
        if isinstance(value, Tensor) and value.numel() and value.data_ptr() in shared:
            raise Finding(f"after {how} both hold the same tensor {name}: training the copy would change the original")
    expected, found = step(subject, original, 0), step(subject, twin, 0)
    if not torch.equal(expected.nan_to_num(), found.nan_to_num()):
        raise Finding(f"after {how} the copy gives {shown(found)}, the original {shown(expected)}")


@check(
    MODULES, "evaluation changes nothing, with gradient or without, and a model or adapter draws nothing", after=BASICS
)
def evaluation_pure(subject: Subject) -> None:
    """Train a step, call it twice in eval mode, without gradient and with, and compare values and state."""
    built = subject.build()
    step(subject, built, 0)
    built.eval()
    # A loss may draw negatives or masks wherever it is called; what is frozen runs in eval mode and may not.
    seeds = (0, 1) if subject.kind in (Kind.MODEL, Kind.ADAPTER) else (0, 0)
    for enabled in (False, True):
        before = _held(built)
        with torch.set_grad_enabled(enabled):
            inputs = [subject.inputs(), subject.inputs()]
            for each in inputs if enabled else ():
                subject.learning(each, subject.learns)
            values = [subject.value(built, each, seed).detach() for each, seed in zip(inputs, seeds, strict=True)]
        _check_held(built, before, "with" if enabled else "without")
        if not torch.equal(values[0].nan_to_num(), values[1].nan_to_num()):
            how = " under two seeds" if seeds[0] != seeds[1] else ""
            raise Finding(
                f"called twice in eval mode{how} it returned {shown(values[0])}, then {shown(values[1])}"
                + (
                    ": draw only if self.training; frozen, and as a teacher that is cached, it is run like this"
                    if how
                    else ""
                )
            )


@check(
    SCALARS, "in evaluation it has the value that it has in training", optional=True, after=(*BASICS, "state_continues")
)
def evaluation_alike(subject: Subject) -> None:
    """Call fresh instances on the same inputs under the same seed in either mode."""
    if flag_of(subject.build(), "training_only"):
        raise NotApplicable("training_only keeps it out of evaluation")
    trained, evaluated = (
        subject.value(subject.build(prepared=True).train(mode), subject.inputs()).detach() for mode in (True, False)
    )
    if not torch.allclose(trained, evaluated, rtol=1e-5, equal_nan=True):
        raise Finding(
            f"in training it returned {shown(trained)}, in eval mode {shown(evaluated)} for the same inputs: the "
            "losses of training and validation could not be compared. If it cannot be evaluated, set training_only = "
            "True on the class; if it is meant to differ, as with batch normalisation or dropout, skip "
            '"evaluation_alike" and say why'
        )


def _held(built: nn.Module) -> dict[str, Any]:
    """Return a copy of the state and of the buffers that are not part of it."""
    return {name: copy.deepcopy(each) for name, each in {**dict(built.named_buffers()), **built.state_dict()}.items()}


def _check_held(built: nn.Module, before: dict[str, Any], how: str) -> None:
    for name, value in _held(built).items():
        if not _same(before[name], value):
            why = (
                "validation would move training"
                if how == "without"
                else "a frozen adapter runs like this where a gradient goes through it, and would change"
            )
            raise Finding(
                f"called in eval mode {how} gradient it changed {name}: {why}. "
                "Update state only if self.training and torch.is_grad_enabled()"
            )


def _same(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(torch.equal(first.nan_to_num(), second.nan_to_num()) for first, second in pairs) if pairs else True
