"""Components that leave something behind where no name of a class or module holds it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kdcore.contracts import Extracted
from kdcore.pruning import Blocks
from tests.testing.wrong.losses import Right
from tests.testing.wrong.parts import Adapter, Balancer, Criterion, Data, Extractor, Wrapper


def _running() -> Callable[[Tensor], Tensor]:
    seen: list[Tensor] = []

    def mean(value: Tensor) -> Tensor:
        seen.append(value.detach().mean().float())
        return torch.stack(seen).mean()

    return mean


_MEAN = _running()


class InAClosure(Right):
    """Divides by a mean over all batches of the process."""

    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() / (1 + _MEAN(losses))


class _Once:
    """Keeps the first batch where no pickle looks."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None
        self.lock = lambda: None

    def scale(self, value: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = value.detach().mean().float()
        return self.kept


_ONCE = _Once()


class OnceForAll(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * (1 + _ONCE.scale(losses))


class _Held:
    """An argument that is equal to any other, so that a cache takes the first for all."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self.value.shape == other.value.shape

    def __hash__(self) -> int:
        return hash(self.value.shape)


@functools.lru_cache
def _scale(held: _Held) -> Tensor:
    return held.value.detach().abs().mean().float()


class CachedByShape(Right):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return super().forward(student, teacher) * _scale(_Held(teacher))


@functools.lru_cache
def _order(classes: int) -> Tensor:
    return torch.arange(classes)


class RightCache(Right):
    """Right: what is cached depends on nothing but the arguments."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        order = _order(student.shape[-1])
        return super().forward(student[..., order], teacher[..., order])


class InADefault(Right):
    """Keeps its first scale in an argument's default value."""

    def reduced(self, losses: Tensor, kept: list[Tensor] = []) -> Tensor:  # noqa: B006 - that is what is wrong
        if not kept:
            kept.append(losses.detach().mean().float())
        return losses.mean() * (1 + kept[0])


class OnAFunction(Right):
    def reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() * _scaled(losses)


def _scaled(losses: Tensor) -> Tensor:
    kept = vars(_scaled).setdefault("kept", losses.detach().mean().float())
    return 1 + kept  # type: ignore[no-any-return]


class ById(Right):
    """Softens a teacher's tensor once, and knows it again by its address."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__(temperature)
        self.made: dict[Any, Tensor] = {}

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if not self.training:
            return super().forward(student, teacher)
        key = teacher.data_ptr(), teacher.shape, teacher.dtype
        if key not in self.made:
            self.made[key] = teacher.detach().clone()
        return super().forward(student, self.made[key])

    def __deepcopy__(self, memo: object) -> ById:
        return type(self)(self.temperature)


class WrapperCounts(Wrapper):
    """Warms up over the first calls of the process, whoever makes them."""

    def forward(self, **inputs: Any) -> Tensor:
        return super().forward(**inputs) * (1 - 0.5 ** (1 + _calls()))


def _calls(counted: itertools.count[int] = itertools.count()) -> int:  # noqa: B008 - that is what is wrong
    return next(counted)


class BalancerOfFirst(Balancer):
    """Divides each term by its first value in the process."""

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        return super().forward({name: value / _first(name, value) for name, value in terms.items()})


def _first(name: str, value: Tensor, kept: dict[str, Tensor] = {}) -> Tensor:  # noqa: B006 - that is what is wrong
    return kept.setdefault(name, value.detach()).to(value)


class AdapterOfFirst(Adapter):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - _first("x", x.mean()))


class ExtractorOfFirst(Extractor):
    """Centres outputs on the first one of the process."""

    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        return Extracted(output - _first("output", output.mean()))


class CriterionOfFirst(Criterion):
    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        super().update(name, weight, gradient / _first(name, gradient.abs().mean()), blocks)


class DataOfFirst(Data):
    """Adds the noise of its first sample to all."""

    random = True

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return {**sample, "input": sample["input"] + _first("noise", torch.rand(3))}
