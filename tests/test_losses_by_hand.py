"""Every installed loss that compares student and teacher, called by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from kdcore.plugins import Registered, registry
from kdcore.testing.conformance import examples_of
from kdcore.testing.example import Example
from kdcore.testing.nested import mapped
from kdcore.testing.subject import Subject

# By torch.nn's losses no element counts, and they say so.
COUNTED = "kd-plugin-torch"


def subjects() -> list[tuple[Registered, Example]]:
    return [(each, example) for each in registry().all("loss") for example in examples_of(each)]


def scaled(scale: int, each: Tensor) -> Tensor:
    return each * scale if scale > 1 and each.is_floating_point() else each


def name(value: object) -> str:
    return getattr(value, "name", str(value))


@pytest.mark.parametrize(("loss", "example"), subjects(), ids=name)
def test_an_empty_batch_is_refused_by_name(loss: Registered, example: Example) -> None:
    subject = Subject(loss, example)
    built = subject.build()
    inputs = mapped(lambda each: each[:0], subject.inputs())
    if loss.provenance.distribution == COUNTED:
        value = subject.value(built, inputs)
        assert float(value) == 0
        return
    with pytest.raises(ValueError, match=r"has shape \(0, .*(not one number: an empty batch|rows come in fours)"):
        subject.call(built, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("loss", "example"), subjects(), ids=name)
def test_autocast_changes_no_bit(loss: Registered, example: Example, dtype: torch.dtype) -> None:
    subject = Subject(loss, example)
    for scale in (1, 300):
        inputs = mapped(partial(scaled, scale), subject.inputs())
        try:
            expected = subject.value(subject.build(), inputs)
        except (ValueError, RuntimeError):
            assert scale > 1  # it wants probabilities
            continue
        with torch.autocast("cpu", dtype):
            found = subject.value(subject.build(), inputs)
        assert torch.equal(found, expected) or not expected.isfinite()
