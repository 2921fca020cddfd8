"""Losses and parts of which a param changes nothing, and right ones of which it is hard to see what it changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kdcore.contracts import LossFactory
from tests.testing.wrong.losses import Right
from tests.testing.wrong.parts import Adapter, Balancer, Criterion, Extractor, Wrapper


class IgnoresItsTemperature(Right):
    def soft(self, logits: Tensor) -> Tensor:
        return (logits / 2.0).softmax(-1)


class IgnoresTwo(IgnoresItsTemperature):
    def __init__(self, temperature: float = 2.0, squared: bool = True) -> None:
        super().__init__(temperature)
        self.squared = squared


class Guards(Right):
    """Divides by no less than eps, and the examples' numbers never come near it."""

    def __init__(self, temperature: float = 2.0, eps: float = 1e-12) -> None:
        super().__init__(temperature)
        if not 0 <= eps <= 1e-6:
            raise ValueError(f"eps is {eps}; it must be from 0 to 1e-6")
        self.eps = eps

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() + torch.relu(self.eps - (losses.detach() + 1).mean())


class Later(Right):
    """Weighs more from a step on."""

    def __init__(self, temperature: float = 2.0, begin: int = 3) -> None:
        super().__init__(temperature)
        if not begin >= 0:
            raise ValueError(f"begin is {begin}; it must be 0 or more")
        self.begin = begin
        self.register_buffer("weight", torch.ones(1))

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.weight.fill_(1.0 if step < 2 + self.begin else 2.0)

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * self.weight.mean()


class UnderAnother(Right):
    """Has a power that counts in another mode than the default."""

    def __init__(self, temperature: float = 2.0, mode: str = "plain", power: float = 2.0) -> None:
        super().__init__(temperature)
        if mode not in ("plain", "power"):
            raise ValueError(f"mode is {mode!r}; it must be plain or power")
        if not 1 <= power <= 4:
            raise ValueError(f"power is {power}; it must be from 1 to 4")
        self.mode, self.power = mode, power

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() if self.mode == "plain" else (losses + 1e-3).pow(self.power).mean() - 1e-3**self.power


class IdleWrapper(Wrapper):
    def __init__(self, make_loss: LossFactory, share: float = 0.5) -> None:
        super().__init__(make_loss)


class IdleBalancer(Balancer):
    def __init__(self, terms: Mapping[str, float], share: float = 0.5) -> None:
        super().__init__(terms)


class IdleAdapter(Adapter):
    def __init__(self, share: float = 0.5) -> None:
        super().__init__()


class IdleExtractor(Extractor):
    def __init__(self, share: float = 0.5) -> None:
        super().__init__()


class IdleCriterion(Criterion):
    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
