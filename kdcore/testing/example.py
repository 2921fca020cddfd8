"""One way to use a component: its params, the inputs it is called with, and what it may leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from kdcore.contracts import Facts, LossFactory

Prepare = Callable[[Any], None]
Inputs = Callable[[torch.Generator, int], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One way to use a component, on which the checks run.

    Arguments:
        inputs: `inputs(generator, batch)` makes small inputs by name, drawn from `generator`, `batch` samples each.
            Models are called with them by keyword, balancers with the dict itself, output extractors with
            `output` and `batch`. Data sets take none.
        name: tells several examples of one component apart.
        params: as a config writes them.
        facts: what `setup(facts)` learns besides the shapes of the inputs: `like`, `num_samples`, `num_classes`,
            `targets`.
        learns: the inputs that a gradient must reach. Unless said: those whose default address is the student, else
            those named after it, else the first with a floating-point dtype.
        fixed: the inputs that no gradient may reach. Unless said: those whose default address is the teacher, or
            named after it.
        equal: like `inputs`, but with a student that agrees with its teacher; where giving the one's tensors to the
            other would not mean that, as with logarithms against probabilities, or cannot be, as with other sizes.
        near_equality: how far off, relative to itself, float32 may be in the value of a student a thousandth away from
            its teacher. Unless said, as far as it is at other inputs: a difference of logarithms loses such digits.
        prepare: `prepare(instance)` brings a fresh instance to where training goes on, if the first batch sets
            something for good that is no part of the gradient. Checks that compare fresh instances on different inputs
            (`gradients`, `halves`, `batch_order`) call it, the others begin from nothing.
        rows_per_sample: how many rows of an input belong to one sample, one after the other, as with an image and
            its rotations. Such an input has `batch` times as many rows; others may have `batch`.
        batch_dims: the dimension of the samples for inputs where it is not 0; None where there is none.
        wraps: for wrappers: makes the loss within. Unless said, the mean squared difference of `student` and `teacher`.
        terms: for balancers: the terms' weights by name, None for a loss that a model returns.
        no_effect: by name of a param the reason why another value changes nothing, as of one that only saves memory.
        skip: by name of an optional check the reason why it does not hold here.
    """

    inputs: Inputs | None = None
    name: str = "default"
    params: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    learns: tuple[str, ...] | None = None
    fixed: tuple[str, ...] | None = None
    equal: Inputs | None = None
    near_equality: float | None = None
    prepare: Prepare | None = None
    rows_per_sample: int = 1
    batch_dims: Mapping[str, int | None] = field(default_factory=dict)
    wraps: LossFactory | None = None
    terms: Mapping[str, float | None] = field(default_factory=lambda: {"ce": 1.0, "kd": 1.0})
    no_effect: Mapping[str, str] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)
