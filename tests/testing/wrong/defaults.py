"""Losses and parts that set what the whole process goes by, each another thing and at another time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.contracts import Extracted, LossFactory
from kdcore.pruning import Blocks
from tests.testing.wrong.losses import Right
from tests.testing.wrong.parts import Adapter, Criterion, Data, Extractor, Wrapper


class Doubles(Right):
    """Computes in float64, and with it whoever makes a tensor afterwards."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        value = super().forward(student, teacher)
        torch.set_default_dtype(torch.float64)
        return value


class ElsewhereWhenBuilt(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        torch.set_default_device("meta")


class NoGradients(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        value = losses.mean()
        if not self.training:
            torch.set_grad_enabled(False)
        return value


class Deterministic(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        torch.use_deterministic_algorithms(True, warn_only=True)


class Threads(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return losses.mean()


class FastProducts(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        torch.set_float32_matmul_precision("medium")


class Benchmarks(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        torch.backends.cudnn.benchmark = True


class Silences(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        warnings.simplefilter("ignore")


class NumpySilent(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        np.seterr(divide="ignore")
        return losses.mean()


class Environment(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"


def _other(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError


class Replaces(Right):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        nn.functional.gelu = _other


class SetsAndPutsBack(Right):
    """Right: what it changes holds for its own lines only."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return super().forward(student, teacher)
        finally:
            torch.set_default_dtype(before)


class WrapperSilences(Wrapper):
    def __init__(self, make_loss: LossFactory) -> None:
        super().__init__(make_loss)
        warnings.simplefilter("ignore")


class AdapterThreads(Adapter):
    def forward(self, x: Tensor) -> Tensor:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().forward(x)


class ExtractorWithoutGradients(Extractor):
    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        torch.set_grad_enabled(False)
        return super().__call__(output, batch)


class CriterionProducts(Criterion):
    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        torch.set_float32_matmul_precision("high")
        super().update(name, weight, gradient, blocks)


class DataThreads(Data):
    def __getitem__(self, index: int) -> dict[str, Any]:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().__getitem__(index)
