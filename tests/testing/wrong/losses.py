"""Losses that are wrong in one way each, and what must say so."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.contracts import Facts
from kdcore.shapes import check_same_shape

_SEEN: list[Tensor] = []


def full(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Right(nn.Module):
    """The mean squared difference of softened distributions: nothing is wrong with it."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        return self.reduced((self.soft(full(student)) - self.soft(full(teacher.detach()))).square())

    def soft(self, logits: Tensor) -> Tensor:
        return (logits / self.temperature).softmax(-1)

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean()


class TeacherLearns(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        return (self.soft(full(student)) - self.soft(full(teacher))).square().mean()


class Vector(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean(-1)


class NotANumber(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * torch.nan


class InPlace(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher.detach().neg_().neg())


class RootOfZero(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.sum(-1).sqrt().mean()


class DividedByNorm(Right):
    def soft(self, logits: Tensor) -> Tensor:
        return logits / logits.norm(dim=-1, keepdim=True)


class DeadChannel(DividedByNorm):
    """Wants features (B, C, D), and knows zeros but no dead channel."""

    def soft(self, logits: Tensor) -> Tensor:
        some = logits.flatten(1).any(1).reshape(-1, 1, 1)
        return super().soft(torch.where(some, logits, torch.ones_like(logits)))


class ZeroSample(DividedByNorm):
    """Knows zeros everywhere, and not in one sample."""

    def soft(self, logits: Tensor) -> Tensor:
        return super().soft(torch.where(logits.any(), logits, torch.ones_like(logits)))


class ZerosOnBothSides(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        length = sum(torch.linalg.vector_norm(full(each), dim=-1, keepdim=True) for each in (student, teacher.detach()))
        return ((full(student) - full(teacher.detach())) / length).square().mean()


class Steep(Right):
    """Its gradient at zeros is finite, and 1e12 times that of others."""

    def soft(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.normalize(logits)


class CostsSomething(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() + 0.1


class ZerosCost(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher) + (~student.any()).float()


class Drifts(Right):
    """Costs nothing at equality, and less beyond."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        first = self.soft(full(student))[..., 0] - self.soft(full(teacher.detach()))[..., 0]
        return super().forward(student, teacher) + first.mean() / 10


class FarFromTheOrigin(Right):
    """Its rounding shows only where the sides are close."""

    def soft(self, logits: Tensor) -> Tensor:
        return super().soft(logits) + 300


class Logarithms(Right):
    """A right loss: the difference of logarithms loses digits of the value, not of the gradient."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        p, log_q = full(teacher.detach()).softmax(-1), full(student).log_softmax(-1)
        return (p * (p.log() - log_q)).sum(-1).mean()


class InHalf(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        return self.reduced((self.soft(student) - self.soft(teacher.detach())).square())


class HalfOfIt(Right):
    """Softens in the inputs' precision, and only compares in float32."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        return self.reduced((full(self.soft(student)) - full(self.soft(teacher.detach()))).square())


class OneSample(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        return (full(student).std(0) - full(teacher.detach()).std(0)).square().mean()


class WrongSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, losses: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:
        return 2 * upstream


class GradientOff(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return WrongSlope.apply(losses).mean()


class StudentDetached(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student.detach(), teacher)


class IdleParameter(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.scale = nn.Parameter(torch.ones(1))


class Scalar(Right):
    """Its parameter has no dimension."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.scale = nn.Parameter(torch.ones(()))

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * self.scale


class LateParameter(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(1))
        return losses.mean() * self.scale[0]


class EveryOther(Right):
    """Weighs rows by their place; halves of even size do not tell."""

    def reduced(self, losses: Tensor) -> Tensor:
        weights = losses.new_tensor([0.5, 1.5]).repeat(len(losses))[: len(losses)]
        return (losses.mean(-1) * weights).mean()


class RootOfBatch(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean(-1).sum() / len(losses) ** 0.5


class Broadcast(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.soft(full(student)) - self.soft(full(teacher.detach()))).square().mean()


class Rounded(Right):
    """The teacher's and the student's distance to a far point, subtracted."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        far = 4e6
        difference = (full(student) + far) - (full(teacher.detach()) + far)
        return difference.square().mean()


class Double(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean().double()


class NotUnderAutocast(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        gram = losses.T @ losses / len(losses) ** 0.5
        into = torch.zeros_like(losses[0])
        # The product is in bfloat16 under autocast, the zeros are not.
        return (
            into.index_add(0, torch.arange(len(into), device=into.device), gram.diagonal()).mean() / len(losses) ** 0.5
        )


class Forgets(Right):
    """Grows with the number of batches it has seen, which is not in its state."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.seen = 0

    def reduced(self, losses: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.seen += 1
        return losses.mean() * (1 + self.seen)


class KeepsNumPy(Right):
    """Counts its batches with NumPy, and saves the number."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.seen = np.zeros((), np.int64)

    def get_extra_state(self) -> dict[str, list[np.int64]]:
        return {"seen": [self.seen[()]]}

    def set_extra_state(self, state: dict[str, list[np.int64]]) -> None:
        self.seen = np.asarray(state["seen"][0])

    def reduced(self, losses: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.seen = self.seen + 1
        return losses.mean() * (1 + int(self.seen))


class HasACount(Right):
    """Right: what it calls count and progress are numbers of its own."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.register_buffer("count", torch.zeros(1))
        self.progress = 0.5


class Remembers(Right):
    """Keeps a sum over its batches in a buffer, in training only; each process has its own."""

    total: Tensor

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.register_buffer("total", torch.zeros(1))

    def reduced(self, losses: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.total += losses.detach().mean()
        return losses.mean()


class LearnsInEvaluation(Remembers):
    def reduced(self, losses: Tensor) -> Tensor:
        self.total += losses.detach().mean()
        return losses.mean()


class SharedGlobal(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        _SEEN.append(losses.detach().mean())
        return losses.mean()


class SharedByClass(Right):
    seen: ClassVar[list[Tensor]] = []

    def reduced(self, losses: Tensor) -> Tensor:
        self.seen.append(losses.detach().mean())
        return losses.mean()


class SharedDefault(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.seen = self.empty()

    def empty(self, seen: list[Tensor] = []) -> list[Tensor]:  # noqa: B006
        return seen

    def reduced(self, losses: Tensor) -> Tensor:
        self.seen.append(losses.detach().mean())
        return losses.mean()


class Random(Right):
    source = random.SystemRandom

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * (1 + self.source().random())


class KeepsItsFirstScale(Right):
    """Saves its scale with its state, but not in a buffer, so that the batch of the probe sets it."""

    scale: Tensor | None = None

    def get_extra_state(self) -> dict[str, Tensor | None]:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, Tensor | None]) -> None:
        self.scale = state["scale"]

    def reduced(self, losses: Tensor) -> Tensor:
        scale = losses.detach().mean() if self.scale is None else self.scale.to(losses)
        if self.training:
            self.scale = scale
        return losses.mean() / (scale + 1)


class OtherInEvaluation(Right):
    """Adds a penalty in training only, which nobody is told."""

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * (2 if self.training else 1)


class LeftOut(OtherInEvaluation):
    """Right: it is left out of evaluation."""

    training_only = True


class NotPicklable(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.soft = lambda logits: (logits / self.temperature).softmax(-1)


class NotCopied(Right):
    """A copy loses what setup told it."""

    def setup(self, facts: Facts) -> None:
        self.samples = facts.inputs["student"].shape[0]

    def __deepcopy__(self, memo: object) -> NotCopied:
        twin = type(self)(self.temperature)
        twin.samples = 1
        return twin

    def __reduce__(self) -> object:
        return type(self), (self.temperature,), self.__dict__

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * self.samples


class OtherWhenCompiled(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * (2 if torch.compiler.is_compiling() else 1)


class CountsWrong(Right):
    def reduced(self, losses: Tensor) -> tuple[Tensor, int]:
        return losses.sum(), losses.numel()

    def count(self, **labels: Tensor) -> int:
        return 1


class OtherName(Right):
    def __init__(self, tau: float = 2.0) -> None:
        super().__init__(tau)


class OtherDefault(Right):
    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__(temperature)


class Narrow(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        if temperature < 1:
            raise ValueError(f"temperature is {temperature}; it must be 1 or more")
        super().__init__(temperature)


class TakesAnything(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature


class TakesNoNumber(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        if temperature <= 0:
            raise ValueError("temperature must be above 0")
        super().__init__()
        self.temperature = temperature


class NamesNothing(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        if not temperature > 0:
            raise ValueError("a wrong value")
        super().__init__(temperature)


class Asserts(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        assert temperature > 0, "temperature"
        super().__init__(temperature)


class OtherInput(Right):
    def forward(self, student: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(student, target)


class ParameterFirst(Right):
    """Cannot be set up."""

    def setup(self, facts: Facts) -> None:
        raise RuntimeError("there is no such fact")


class FirstSets(Right):
    """A right loss whose scale the first batch of a training sets for good, a constant to the gradient."""

    scale: Tensor

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.register_buffer("scale", torch.full((1,), -1.0))

    def reduced(self, losses: Tensor) -> Tensor:
        fresh = losses.detach().mean().reshape(1) + 1
        scale = torch.where(self.scale > 0, self.scale, fresh)
        if self.training and torch.is_grad_enabled():
            self.scale = scale.clone()
        return (losses / scale).mean()


class FirstSetsSlopeOff(FirstSets):
    """And a wrong gradient, which only shows once the scale is set."""

    def reduced(self, losses: Tensor) -> Tensor:
        return super().reduced(WrongSlope.apply(losses))


class Pairs(Right):
    """A right loss of rows in pairs, whose second rows count half."""

    def reduced(self, losses: Tensor) -> Tensor:
        return losses[::2].mean() + losses[1::2].mean() / 2


class LastPairLess(Pairs):
    """The last pair of a batch counts less than the others."""

    def reduced(self, losses: Tensor) -> Tensor:
        return super().reduced(losses) - losses[-2:].mean() / 4
