"""Losses whose schema allows what they cannot do, with the part of the schema that says so."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.testing.wrong.losses import Right


class DividesByIt(Right):
    schema: ClassVar[dict[str, Any]] = {"type": "number", "minimum": 0, "default": 2.0}

    def __init__(self, divisor: float = 2.0) -> None:
        super().__init__()
        if not divisor >= 0:
            raise ValueError(f"divisor is {divisor}; it must be at least 0")
        self.divisor = divisor

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() / self.divisor


class OneModeOnly(Right):
    schema: ClassVar[dict[str, Any]] = {"enum": ["mean", "median"], "default": "mean"}

    def __init__(self, mode: str = "mean") -> None:
        super().__init__()
        if mode not in ("mean", "median"):
            raise ValueError(f"mode is {mode!r}; it must be mean or median")
        self.mode = mode

    def reduced(self, losses: Tensor) -> Tensor:
        return {"mean": losses.mean}[self.mode]()


class TooLargeForAnInteger(Right):
    schema: ClassVar[dict[str, Any]] = {"type": "integer", "minimum": 1, "maximum": 10**30, "default": 3}

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        if not 1 <= count <= 10**30:
            raise ValueError(f"count is {count}; it must be from 1 to 1e30")
        self.count = count

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * torch.tensor(self.count, device=losses.device)


class WantsMoreThanItSays(Right):
    schema: ClassVar[dict[str, Any]] = {"type": "number", "exclusiveMinimum": 10, "default": 20.0}

    def __init__(self, width: float = 20.0) -> None:
        super().__init__()
        if not width >= 11:
            raise ValueError(f"width is {width}; it must be at least 11")


class HasAMaximum(Right):
    schema: ClassVar[dict[str, Any]] = {"type": "number", "default": 2.0}

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        if abs(power) > 1000:
            raise ValueError(f"power is {power}; it must be from -1000 to 1000")


class TrueForOne(Right):
    schema: ClassVar[dict[str, Any]] = {"type": "integer", "default": 1}

    def __init__(self, squared: bool = True) -> None:
        super().__init__()


class FloatForAnInteger(Right):
    schema: ClassVar[dict[str, Any]] = {"type": "integer", "default": 2}

    def __init__(self, layer: float = 2.0) -> None:
        super().__init__()
