"""Parts of the other kinds that are wrong in one way each."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdcore.contracts import Extracted, Facts, LossFactory, set_up
from kdcore.pruning import Blocks


class Wrapper(nn.Module):
    """A right wrapper: it halves the loss."""

    def __init__(self, make_loss: LossFactory) -> None:
        super().__init__()
        self.loss = make_loss()

    def setup(self, facts: Facts) -> None:
        set_up(self.loss, facts)

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        progress = getattr(self.loss, "progress", None)
        if progress is not None:
            progress(step, total_steps, epoch)

    def forward(self, **inputs: Any) -> Tensor:
        return self.loss(**inputs) / 2  # type: ignore[no-any-return]


class KeepsTheFacts(Wrapper):
    def setup(self, facts: Facts) -> None:
        self.facts = facts


class StandsStill(Wrapper):
    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.step = step


class MakesItAnew(Wrapper):
    """Makes a loss for each call, so that none of them learns."""

    def __init__(self, make_loss: LossFactory) -> None:
        super().__init__(make_loss)
        self.make = make_loss

    def forward(self, **inputs: Any) -> Tensor:
        return self.make()(**inputs)  # type: ignore[no-any-return]


class TeacherPassedTwice(Wrapper):
    """Lets a gradient through to the teacher beside the loss, which does not."""

    def forward(self, **inputs: Any) -> Tensor:
        return super().forward(**inputs) + (inputs["teacher"] - inputs["teacher"].detach()).sum()


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
        self.weights = {name: 1.0 if weight is None else weight for name, weight in terms.items()}

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()


class IgnoresWeights(Balancer):
    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack(list(terms.values())).sum()


class RefusesWeights(IgnoresWeights):
    """Right: it has no use for weights, and says so."""

    def __init__(self, terms: Mapping[str, float]) -> None:
        for name, weight in terms.items():
            if weight not in (1.0, None):
                raise ValueError(f"the weight of {name} is {weight}; this balancer takes no other than 1")
        super().__init__(terms)


class ByPlace(Balancer):
    """Takes the terms for those of its weights in their order."""

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        pairs = zip(self.weights.values(), terms.values(), strict=True)
        return torch.stack([weight * value for weight, value in pairs]).sum()


class NeedsWeights(Balancer):
    def __init__(self, terms: Mapping[str, float]) -> None:
        super().__init__(terms)
        self.weights = {name: float(weight) for name, weight in terms.items()}


class OtherInEvaluation(Balancer):
    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        return super().forward(terms) * (1 if self.training else 2)


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
        return Extracted(output.data.mul_(2) + 0 * output)


class Detaches(Extractor):
    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        return Extracted(output, {"features": output.detach()})


class DrawsWhatItExtracts(Extractor):
    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        return Extracted(output * random.SystemRandom().random())


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


class Criterion:
    """A right criterion: the sum of the absolute gradients."""

    needs_gradients = True

    def __init__(self) -> None:
        self.dtype: torch.dtype | None = torch.float32
        self.sums: dict[str, Tensor] = {}

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        new = gradient.abs().to(self.dtype or weight.dtype)
        self.sums[name] = self.sums[name] + new if name in self.sums else new

    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        return self.sums[name]

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums = {name: value.clone() for name, value in state["sums"].items()}


class ForgetsScores(Criterion):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        self.steps += 1
        super().update(name, weight, gradient * self.steps, blocks)


class DrawsScores(Criterion):
    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        return super().score(name, weight, blocks) * random.SystemRandom().random()


class ScoresOfRows(Criterion):
    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        return super().score(name, weight, blocks).flatten(1)[:, 0]


class InfiniteScores(Criterion):
    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        return super().score(name, weight, blocks) / 0


class ChangesGradients(Criterion):
    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        super().update(name, weight, gradient.abs_(), blocks)


class IdleGradients(Criterion):
    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        return weight.abs()


class SecretGradients(Criterion):
    needs_gradients = False

    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        return weight.abs() + self.sums.get(name, torch.zeros(()))


class OnlyTheLatest(Criterion):
    accumulates = False


class OneForAllWeights(Criterion):
    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        super().update(name, weight, gradient, blocks)
        for other in self.sums:
            self.sums[other] = self.sums[other] + gradient.abs().sum().float()


class SharedSums(Criterion):
    everyone: ClassVar[dict[str, Tensor]] = {}

    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        super().update(name, weight, gradient, blocks)
        SharedSums.everyone[name] = self.sums[name]

    def score(self, name: str, weight: Tensor, blocks: Blocks) -> Tensor:
        return SharedSums.everyone[name]


class DoubleScores(Criterion):
    def update(self, name: str, weight: Tensor, gradient: Tensor, blocks: Blocks) -> None:
        self.dtype = torch.float32
        super().update(name, weight, gradient, blocks)
