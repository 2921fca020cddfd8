"""What every other check relies on: the component can be built and called, twice with the same result."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.component import Kind, Role
from kdcore.contracts import method_of
from kdcore.testing.check import ALL, CALLED, LOSSES, MODULES, SCALARS, check
from kdcore.testing.kept import graphs
from kdcore.testing.nested import floating, mapped, tensors
from kdcore.testing.result import Finding
from kdcore.testing.steps import PER_EPOCH, STEPS, step, trainable
from kdcore.testing.subject import Subject, all_finite, shown
from kdcore.testing.surroundings import belongings, contents, places
from kdcore.testing.use import alike, used

BASICS = ("builds", "defaults_kept", "finite", "inputs_unchanged", "instances_apart", "leaves_nothing", "deterministic")


@check(ALL, "it can be built with the example's params and set up", after=("schema_strict",))
def builds(subject: Subject) -> None:
    """Build and set up the component, and see that it is what its kind says."""
    built = subject.build()
    if subject.kind.value in {kind.value for kind in MODULES} and not isinstance(built, nn.Module):
        raise Finding(f"its factory returned a {type(built).__name__}, not an nn.Module")


@check(
    CALLED, "called with the example it returns what its kind must, all of it finite", after=("builds", "defaults_kept")
)
def finite(subject: Subject) -> None:
    """Call it, in training mode, as the core does."""
    built = subject.build()
    result = subject.call(built, subject.inputs())
    if subject.kind in SCALARS:
        _check_scalar(subject, built, result)
    elif subject.kind is not Kind.OUTPUT_EXTRACTOR and not floating(result):
        raise Finding(f"called with the example's inputs it returned {shown(result)}: no tensor")
    if not all_finite(result):
        raise Finding(f"called with the example's inputs, which are finite, it returned {shown(result)}: not finite")


def _check_scalar(subject: Subject, built: nn.Module, result: Any) -> None:
    if isinstance(result, tuple) and len(result) == 2 and subject.kind in LOSSES:
        total, count = result
        if not _number(total) or not _number(count):
            raise Finding(f"called with the example's inputs it returned {shown(result)}; (sum, count) are two scalars")
        _check_count(subject, built, count)
        return
    if not isinstance(result, Tensor) or result.numel() != 1 or not result.is_floating_point():
        raise Finding(
            f"called with the example's inputs it returned {shown(result)}; it must return a scalar, "
            "for example by .mean() over the batch" + (", or (sum, count)" if subject.kind in LOSSES else "")
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.dim() == 0)


def _check_count(subject: Subject, built: nn.Module, count: Any) -> None:
    tell = method_of(built, "count")
    if tell is None:
        return
    labels = {name: value for name, value in subject.inputs().items() if subject.roles.get(name) is Role.LABELS}
    told = tell(**labels)
    if told is not None and float(told) != float(count):
        raise Finding(f"count(...) told {shown(told)} before the forward pass, which then returned {shown(count)}")


@check(CALLED, "it changes none of its inputs, forward or backward", after=("finite",))
def inputs_unchanged(subject: Subject) -> None:
    """Call it with tensors, differentiate, and compare them with their copies."""
    built, given = subject.build(), subject.inputs()
    before = mapped(lambda each: each.detach().clone(), given)
    subject.call(built, given)
    _check_unchanged(before, given, "in place")
    if subject.kind in MODULES:
        inputs = subject.inputs()
        _differentiate(subject, subject.build(), inputs)
        _check_unchanged(before, inputs, "in place by its backward pass")


def _differentiate(subject: Subject, built: nn.Module, inputs: Mapping[str, Any]) -> None:
    wanted = [*subject.learning(inputs, subject.learns), *trainable(built)]
    value = subject.value(built, inputs)
    if wanted and value.requires_grad:
        # What backward finds changed under it is compared below, in plainer words than torch's.
        with contextlib.suppress(RuntimeError):
            torch.autograd.grad(value, wanted, allow_unused=True)


def _check_unchanged(before: Mapping[str, Any], given: Mapping[str, Any], how: str) -> None:
    for name, value in given.items():
        for old, new in zip(tensors(before[name]), tensors(value), strict=True):
            if not torch.equal(old.nan_to_num(), new.detach().nan_to_num()):
                raise Finding(
                    f"input {name} was changed {how}: other terms read the same tensor. Use operations without a "
                    "trailing underscore, or clone first"
                )


@check(MODULES, "two instances share no state", after=("finite", "inputs_unchanged", "graphs_released"))
def instances_apart(subject: Subject) -> None:
    """Train one of two instances and see what that did to the other, its class and its module."""
    one, other = subject.build(), subject.build()
    _check_storage(one, other)
    step(subject, one, 0)  # what is filled once, at the first use, may be shared, if every batch fills it alike
    around = places(one)
    before = contents(around), belongings(one, other)
    for number in (1, 2):
        step(subject, one, number)
    after = contents(around), belongings(one, other)
    for old, new in zip(before, after, strict=True):
        for where in old.keys() & new.keys():
            if old[where] != new[where]:
                raise Finding(f"training one instance changed {where}, which all instances share; keep it in a buffer")


def _check_storage(one: nn.Module, other: nn.Module) -> None:
    held = {each.data_ptr() for each in one.state_dict().values() if isinstance(each, Tensor) and each.numel()}
    for name, value in other.state_dict().items():
        if isinstance(value, Tensor) and value.numel() and value.data_ptr() in held:
            raise Finding(f"two instances hold the same tensor {name}: make it in the constructor or in setup")


@check(
    CALLED | {Kind.CRITERION},
    "under one seed it returns the same, bit for bit",
    after=("inputs_unchanged", "instances_apart", "leaves_nothing", "scores"),
)
def deterministic(subject: Subject) -> None:
    """Use two fresh instances under the same seed, and compare values, gradients and buffers."""
    one, other = used(subject, 0), used(subject, 0)
    if not alike(one, other):
        raise Finding(
            f"two fresh instances under the same seeds returned {shown(one[0])} and {shown(other[0])} (or other "
            "gradients): draw from torch's global generator, Python's or numpy's, which the run seeds"
        )


@check(MODULES, "what it keeps between calls is detached from their graphs", after=("finite", "inputs_unchanged"))
def graphs_released(subject: Subject) -> None:
    """Call it twice in training mode, as the steps of a training, and once in eval mode, and look at what it holds."""
    built = subject.build()
    for number in (0, 1, 2):
        built.train(number < 2)
        progress = method_of(built, "progress")
        if progress is not None:
            progress(number, STEPS, number // PER_EPOCH)
        inputs = subject.inputs(seed=number)
        subject.learning(inputs, subject.learns)
        # What a model yields is no leaf: to keep it is to keep the graph of the model.
        subject.call(built, mapped(lambda each: each * 1 if each.requires_grad else each, inputs), number)
        for kept in graphs(built):
            raise Finding(
                f"after a call in {'training' if built.training else 'eval'} mode its {kept.what} {kept.name} still "
                f"holds the graph of that call (grad_fn={type(kept.tensor.grad_fn).__name__}): the next backward pass "
                "goes through it once more, and fails, or memory grows with every step. Keep only numbers: "
                f"self.{kept.name} = (...).detach()"
            )


@check(MODULES, "no parameter appears after setup, and each has a dimension", after=("finite",))
def parameters_early(subject: Subject) -> None:
    """Compare the state's names before and after a step."""
    built = subject.build()
    before = set(built.state_dict())
    step(subject, built, 0)
    appeared = set(built.state_dict()) - before
    if appeared:
        raise Finding(
            f"these appeared in the first forward pass: {', '.join(sorted(appeared))}. An optimizer made before never "
            "trains them; make them in the constructor or in setup(facts), and do not keep a module that you were given"
        )
    flat = [name for name, each in built.named_parameters() if each.dim() == 0]
    if flat and subject.kind is not Kind.MODEL:
        raise Finding(
            f"parameters without a dimension, which cannot be sharded: {', '.join(flat)}. Give them shape (1,)"
        )
