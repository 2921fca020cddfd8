"""Losses and parts that are right where one looks first: in small batches, in training, on the CPU, in the first step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.testing.wrong.losses import Right
from tests.testing.wrong.parts import Adapter, Data, Model

_FIRST: dict[str, Tensor] = {}
_MEAN: Tensor | None = None
_PLACES: dict[int, Tensor] = {}


class FifthSampleHalf(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        weights = losses.new_ones(len(losses))
        weights[4:] = 0.5
        return (weights * losses.flatten(1).mean(1)).mean()


class SumOfManySamples(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * (1 if len(losses) <= 4 else len(losses))


class OnlyPairs(Right):
    """Leaves out the last row of an odd batch."""

    def reduced(self, losses: Tensor) -> Tensor:
        return losses[: len(losses) // 2 * 2 or 1].mean()


class Seeds(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().forward(student, teacher)


class SeedsNumpyWhenBuilt(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        np.random.seed(0)


class FirstTeacherForEver(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        kept = _FIRST.setdefault("teacher", teacher.detach().clone())
        alike = kept.shape == teacher.shape and kept.dtype is teacher.dtype
        return super().forward(student, kept if alike else teacher)


class FirstMeanForEver(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        global _MEAN  # noqa: PLW0603 - that is what is wrong
        if _MEAN is None:
            _MEAN = student.detach().mean()
        return super().forward(student, teacher) * (1 + _MEAN.to(student.dtype).abs())


class SharesWhatShapesTell(Right):
    """Right: what it keeps for all instances is the same whatever the batch holds."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        classes = student.shape[-1]
        order = _PLACES.setdefault(classes, torch.arange(classes))
        return super().forward(student[..., order], teacher[..., order])


class TeacherLearnsInEvaluation(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.training:
            return super().forward(student, teacher)
        return self.reduced((self.soft(student) - self.soft(teacher)).square())


class IgnoresTheTeacher(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, torch.zeros_like(teacher))


class MadeOnTheCPU(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return (losses * torch.ones(losses.shape[-1], dtype=losses.dtype)).mean()


class AttributeNotABuffer(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.scale = torch.ones(1)

    def reduced(self, losses: Tensor) -> Tensor:
        return (losses * self.scale.to(losses.dtype)).mean()


class ReadsANumber(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        value = losses.mean()
        return value if value.item() > -1 else value * 2


class Rounds(Right):
    """Computes in float32 whatever it is given."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student.float(), teacher.float())


class _WritesBack(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, student: Tensor, teacher: Tensor) -> Tensor:
        context.save_for_backward(student, teacher)
        return (student - teacher).square().mean()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        student, teacher = context.saved_tensors
        return -2 * gradient * teacher.sub_(student) / student.numel(), None


class ChangesTheTeacherBackward(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        super().forward(student, teacher)
        full = torch.promote_types(student.dtype, torch.float32)
        return _WritesBack.apply(student.to(full), teacher.detach().to(full))  # type: ignore[no-any-return,no-untyped-call]


class FirstOfTheList(nn.Module):
    """Takes lists, and trains the first layer only."""

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        pairs = [
            (one if number == 0 else one.detach()) - other.detach()
            for number, (one, other) in enumerate(zip(student, teacher, strict=True))
        ]
        return torch.stack([each.square().mean() for each in pairs]).sum()


class AdapterMovesFrozen(Adapter):
    """Updates a running mean in eval mode, where a gradient goes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x) - self.mean
        if torch.is_grad_enabled():
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return y


class DropoutForEver(Model):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(input, 0.5, training=True))


class LastRowOfMany(Adapter):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x[-1:].sum() if len(x) > 8 else 0)


class LongData(Data):
    """A right one of more samples than one looks at in a row."""

    def __init__(self) -> None:
        self.targets = [index % 2 for index in range(40)]


class DrawnWhenBuilt(LongData):
    """Promises samples without randomness, which it draws when it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.randn(40)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "input": self.noise[index].expand(3)}


class DrawnUnseeded(DrawnWhenBuilt):
    random = True

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.from_numpy(np.random.default_rng().normal(size=40)).float()


class TooLong(LongData):
    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= 38:
            raise IndexError("there is no such image")
        return super().__getitem__(index)


class LateLabels(LongData):
    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return sample if index < 30 else {**sample, "target": 1 - sample["target"]}


class LabelsBeyondTheLast(LongData):
    """Has no targets to compare with, only more labels than it says."""

    def __init__(self) -> None:
        super().__init__()
        self.labels, self.targets = self.targets, None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "target": torch.tensor(2 if index > 30 else 0)}


class NegativeLabels(LongData):
    def __init__(self) -> None:
        super().__init__()
        self.targets[-1] = -1


class SeedsWhenRead(LongData):
    def __getitem__(self, index: int) -> dict[str, Any]:
        torch.manual_seed(index)
        return super().__getitem__(index)


class LosesASample(LongData):
    def collate(self, samples: list[dict[str, Any]]) -> Any:
        return torch.utils.data.default_collate(samples[:-1])
