"""Small losses, and a factory of them as the core passes it to a wrapper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from kdcore.component import Input, Role
from kdcore.contracts import Facts, TensorFacts


@dataclass(frozen=True)
class Factory:
    """Makes one kind of loss, or of wrapper, and says what it takes."""

    make: Callable[[], nn.Module]
    inputs: tuple[Input, ...]

    def __call__(self) -> nn.Module:
        return self.make()


class Distance(nn.Module):
    """Mean squared distance of student and teacher; remembers what it was told."""

    def __init__(self):
        super().__init__()
        self.facts: Facts | None = None
        self.told: list[tuple[int, int, int]] = []

    def setup(self, facts: Facts) -> None:
        self.facts = facts

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.told.append((step, total_steps, epoch))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise ValueError(f"student has shape {tuple(student.shape)} but teacher has {tuple(teacher.shape)}")
        return (student - teacher.detach()).pow(2).mean()


class Scaled(Distance):
    """Has one weight per channel of the student, known from the facts."""

    def setup(self, facts: Facts) -> None:
        super().setup(facts)
        self.scale = nn.Parameter(torch.ones(facts.inputs["student"].shape[1]))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student * self.scale.view(1, -1, *[1] * (student.dim() - 2)) - teacher.detach()).pow(2).mean()


class Gained(Distance):
    """Has one parameter, known from the start."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student * self.gain - teacher.detach()).pow(2).mean()


class Tokens(nn.Module):
    """Cross entropy of every label that is not -100, as (sum, count)."""

    def forward(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        flat = nn.functional.cross_entropy(input.flatten(0, -2), target.flatten(), reduction="sum")
        return flat, self.count(target)

    def count(self, target: Tensor) -> Tensor:
        return (target != -100).sum()


class Masked(nn.Module):
    """Squared distance per position as (sum, count), with a mask of its own."""

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        distance = (student - teacher.detach()).pow(2).sum(-1)
        if mask is None:
            return distance.sum(), torch.tensor(distance.numel())
        return (distance * mask).sum(), mask.sum()

    def count(self, mask: Tensor | None = None) -> Tensor | None:
        return None if mask is None else mask.sum()


class Head(nn.Module):
    """A loss that is given the module which makes the logits."""

    def forward(self, hidden: Tensor, head: nn.Module, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head(hidden), target)


STUDENT_TEACHER = (Input("student", role=Role.POSITIONS), Input("teacher", role=Role.POSITIONS))
INPUT_TARGET = (Input("input", role=Role.POSITIONS), Input("target", role=Role.LABELS))
MASK = Input("mask", required=False, role=Role.LABELS)
PLAIN = (Input("student"), Input("teacher"))


@pytest.fixture
def distance() -> Factory:
    return Factory(Distance, STUDENT_TEACHER)


@pytest.fixture
def scaled() -> Factory:
    return Factory(Scaled, PLAIN)


@pytest.fixture
def gained() -> Factory:
    return Factory(Gained, STUDENT_TEACHER)


@pytest.fixture
def tokens() -> Factory:
    return Factory(Tokens, INPUT_TARGET)


@pytest.fixture
def masked_loss() -> Factory:
    return Factory(Masked, (*STUDENT_TEACHER, MASK))


@pytest.fixture
def head_loss() -> Factory:
    inputs = (
        Input("hidden", role=Role.POSITIONS),
        Input("head", role=Role.MODULE),
        Input("target", role=Role.LABELS),
    )
    return Factory(Head, inputs)


@pytest.fixture
def cross_entropy() -> Callable[..., Factory]:
    return lambda **params: Factory(lambda: nn.CrossEntropyLoss(**params), INPUT_TARGET)


@pytest.fixture
def wrapped() -> Callable[..., Factory]:
    """Make a factory of wrappers around `inner`, with the wrapper's own inputs."""
    return lambda wrapper, inner, *own, **params: Factory(lambda: wrapper(inner, **params), (*inner.inputs, *own))


@pytest.fixture
def facts() -> Callable[..., Facts]:
    """Make facts of tensors, or of lists or dicts of them."""
    return lambda **inputs: Facts(inputs={name: TensorFacts.of(value) for name, value in inputs.items()}, num_samples=9)


@pytest.fixture
def noise() -> Callable[..., Tensor]:
    """Make reproducible float64 noise."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
