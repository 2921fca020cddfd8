"""Losses and parts that keep the graph of a call, and some that keep only numbers."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from tests.testing.wrong.losses import Right
from tests.testing.wrong.parts import Adapter


class GraphInABuffer(Right):
    """Follows its own mean with a graph that grows with every step."""

    total: Tensor

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.register_buffer("total", torch.zeros(1))

    def reduced(self, losses: Tensor) -> Tensor:
        value = losses.mean()
        if self.training and torch.is_grad_enabled():
            self.total = 0.9 * self.total + value
        return value


class NumbersInABuffer(GraphInABuffer):
    def reduced(self, losses: Tensor) -> Tensor:
        value = super().reduced(losses)
        self.total = self.total.detach()
        return value


class FeaturesInAList(Right):
    """Keeps the student's features for whoever asks for them."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.latest: dict[str, deque[Tensor]] = {"student": deque(maxlen=1)}

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.latest["student"].append(student)
        return super().forward(student, teacher)


class AdapterKeepsItsOutput(Adapter):
    def forward(self, x: Tensor) -> Tensor:
        self.output = super().forward(x)
        return self.output
