"""Losses that are wrong in two ways, both of which shall be said at once."""

from __future__ import annotations

from torch import Tensor

from kdcore.shapes import check_same_shape
from tests.testing.wrong.graphs import GraphInABuffer
from tests.testing.wrong.losses import Right, full

_BEFORE: list[Tensor] = []


class TeacherLearns(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_same_shape(student=student, teacher=teacher)
        return self.reduced((self.soft(full(student)) - self.soft(full(teacher))).square())


class InPlaceToo(TeacherLearns):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        teacher.data.neg_()
        return super().forward(student, -teacher)


class SharedToo(TeacherLearns):
    def reduced(self, losses: Tensor) -> Tensor:
        value = losses.mean()
        if self.training:
            _BEFORE[:] = [*_BEFORE[-3:], value.detach()]
        return value


class GraphToo(TeacherLearns, GraphInABuffer):
    pass
