"""Another device than the CPU, as far as it can be told without one."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

from kdcore.testing.check import MODULES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.nested import floating, mapped
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.steps import trainable
from kdcore.testing.subject import Subject, shown

DEVICE = "meta"


@check(
    MODULES,
    "on another device than the CPU it makes no tensor elsewhere, and reads no number back",
    optional=True,
    after=BASICS,
)
def other_device(subject: Subject) -> None:
    """Call it and differentiate on a device that knows shapes and devices of tensors, and no numbers."""
    try:
        with _numberless():
            result = _used(subject)
    except RuntimeError as error:
        found = _explained(error)
        if found is None:
            raise
        raise found from error
    for each in floating(result):
        if each.device.type != DEVICE and each.dim():
            raise Finding(f"with inputs on another device it returned {shown(each)} on the {each.device.type}")


def _explained(error: RuntimeError) -> Exception | None:
    """Return what an error without numbers says of the component, None where that is nothing else than the error."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedOperatorException,
    )

    if isinstance(error, DataDependentOutputException) and "_local_scalar_dense" in str(error):
        return Finding(
            f"it reads a number out of a tensor{_where(error)}, as .item(), float(x), bool(x) and 'if x > 0' do: on an "
            "accelerator each step waits for that. Use torch.where, clamp or a mask, and look at labels on the CPU "
            'only. If it cannot be helped, skip "other_device" and say why'
        )
    unknown = DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException
    if isinstance(error, (*unknown, NotImplementedError)):
        return NotApplicable(f"torch cannot tell without numbers: {str(error).splitlines()[0]}")
    if "device" in str(error):  # each operation says it in words of its own
        return Finding(
            f"its tensors and its inputs are on two devices{_where(error)}: make tensors where the inputs are, as with "
            "torch.zeros_like(x) or torch.arange(n, device=x.device), and keep constants in buffers, which move along"
        )
    return None


class _Autocast(torch.autocast):
    """torch's, which knows nothing of the device without numbers, and refuses even to be off there."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == DEVICE else device_type, *args, **kwargs)


@contextlib.contextmanager
def _numberless() -> Iterator[None]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with (
        mock.patch.object(torch, "autocast", _Autocast),
        mock.patch.object(torch.amp, "autocast", _Autocast),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def _used(subject: Subject) -> Any:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        built = subject.build()
        inputs = {name: _moved(value) for name, value in subject.inputs().items()}
        if isinstance(built, nn.Module):
            built.to(DEVICE)
    wanted = [*subject.learning(inputs, subject.learns), *trainable(built)]
    result = subject.call(built, inputs)
    parts = [each.sum() for each in floating(result) if each.requires_grad and each.device.type == DEVICE]
    if parts and wanted:
        torch.autograd.grad(torch.stack(parts).sum(), wanted, allow_unused=True)
    return result


def _moved(value: Any) -> Any:
    return value.to(DEVICE) if isinstance(value, nn.Module) else mapped(lambda each: each.to(DEVICE), value)


def _where(error: BaseException) -> str:
    """Return the last line of the component's own code on the way to the error."""
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in each.filename and "/kdcore/testing/" not in each.filename
    ]
    return f" in line {frames[-1].lineno} of {frames[-1].filename} ({frames[-1].line})" if frames else ""
