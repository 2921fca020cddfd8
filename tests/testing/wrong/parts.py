"""Parts of the other kinds that are wrong in one way each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdcore.contracts import Extracted, Facts, LossFactory


class Wrapper(nn.Module):
    """A right wrapper: it halves the loss."""

    def __init__(self, make_loss: LossFactory) -> None:
        super().__init__()
        self.loss = make_loss()

    def forward(self, **inputs: Any) -> Tensor:
        return self.loss(**inputs) / 2  # type: ignore[no-any-return]


class TeacherPassedTwice(Wrapper):
    """Lets a gradient through to the teacher beside the loss, which does not."""

    def forward(self, **inputs: Any) -> Tensor:
        return super().forward(**inputs) + inputs["teacher"].square().mean()


class KeepsInputs(Wrapper):
    """Remembers the last batch for the next one, outside its state."""

    last: Tensor | None = None

    def forward(self, **inputs: Any) -> Tensor:
        value = super().forward(**inputs) + (0 if self.last is None else self.last)
        if self.training:
            self.last = value.detach()
        return value


class Balancer(nn.Module):
    """A right balancer."""

    def __init__(self, terms: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(terms)

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()


class DropsATerm(Balancer):
    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        return next(iter(terms.values()))


class ChangesTheTerms(Balancer):
    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        for name, value in terms.items():
            value.data.mul_(self.weights[name] + 1)
        return super().forward(terms)


class Adapter(nn.Module):
    """A right adapter."""

    def setup(self, facts: Facts) -> None:
        self.weight = nn.Parameter(torch.randn(facts.inputs["x"].shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, -1, *[1] * (x.dim() - 2))


class AdapterWithoutGradient(Adapter):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach() * 1 + 0 * self.weight.sum()


class NoModule:
    """No nn.Module at all."""


class Extractor:
    """A right extractor."""

    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        return Extracted(output)


class BareTensor(Extractor):
    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Any:
        return output


class ScalesItsInput(Extractor):
    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        return Extracted(output.mul_(2))


class VectorAsLoss(Extractor):
    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        return Extracted(None, {}, {"aux": output})


class Data(Dataset[dict[str, Tensor]]):
    """A right data set."""

    num_classes = 2
    random = False

    def __init__(self) -> None:
        self.targets = [0, 1, 0, 1]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input": torch.full((3,), float(index)), "target": torch.tensor(index % 2)}


class RandomAfterAll(Data):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "input": torch.rand(3)}


class OwnGenerator(Data):
    random = True

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.drawn += 1
        return {**super().__getitem__(index), "input": torch.tensor(self.drawn)}

    def __reduce__(self) -> Any:
        return type(self), ()


class Tuples(Data):
    def __getitem__(self, index: int) -> Any:
        return tuple(super().__getitem__(index).values())


class Indexed(Data):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "index": index}


class WrongLabels(Data):
    def __init__(self) -> None:
        self.targets = [0, 1, 1, 0]


class TooManyClasses(Data):
    num_classes = 1


class NotOfOneSize(Data):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "input": torch.zeros(index + 1)}


class Empty(Data):
    def __init__(self) -> None:
        self.targets = []


class Open(Data):
    """Holds what no worker process can be given."""

    def __init__(self) -> None:
        super().__init__()
        self.read = lambda index: index


class Model(nn.Module):
    """A right model."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(input)  # type: ignore[no-any-return]


class RowsMixed(Model):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).cumsum(0)


class Hoarder(Model):
    """Counts its calls in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(input)
