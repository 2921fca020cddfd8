"""Tiny models, losses and adapters, registered as a stranger's plugin would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import Input, Role
from kdcore.config.config import Config
from kdcore.config.load import load_config
from kdcore.contracts import Extracted, Facts
from kdcore.pipeline.build import build_objective
from kdcore.pipeline.objective import Objective
from kdcore.plugins import Registry


class Net(nn.Module):
    """Two blocks with batch norm and dropout, a relu that runs twice, and a head."""

    def __init__(self, width: int = 4, classes: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width))
        self.relu = nn.ReLU()
        self.block2 = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(width, classes)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.block1(x))
        x = self.drop(self.relu(self.block2(x)))
        return self.fc(x)


class InplaceNet(nn.Module):
    """Batch norm before an in-place relu: capturing the norm sees what the relu left."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.norm(x)))


class DictNet(nn.Module):
    """Returns a dict with a nested tuple and a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
        hidden = self.body(x) * scale
        logits = self.head(hidden)
        return {"logits": logits, "hidden": (hidden, hidden * 2), "aux": logits.square().mean()}


class Head(nn.Module):
    """Classifies features: a teacher's head for SimKD."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(features)


class MSE(nn.Module):
    """Mean squared error."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target.detach())


class CE(nn.Module):
    """Cross entropy."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(input, target)


class TokenCE(nn.Module):
    """Cross entropy over positions, as (sum, count)."""

    def forward(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(input, target, reduction="sum", ignore_index=-100), self.count(target)

    def count(self, target: Tensor) -> Tensor:
        return (target != -100).sum()


class Scaled(nn.Module):
    """A loss with a parameter and a bank, both made in setup."""

    def setup(self, facts: Facts) -> None:
        width = facts.inputs["input"].shape[-1]
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("bank", torch.zeros(facts.num_samples or 1, width))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.bank[: len(input)] += input.detach()
        return F.mse_loss(input * self.scale, target.detach())


class UsesModule(nn.Module):
    """A loss that is given a submodule."""

    def forward(self, input: Tensor, head: nn.Module) -> Tensor:
        return head(input).square().mean()


class Projector(nn.Module):
    """A linear map sized in setup."""

    def setup(self, facts: Facts) -> None:
        assert facts.like is not None
        self.linear = nn.Linear(facts.inputs["x"].shape[-1], facts.like.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class WeightedSum(nn.Module):
    """The plain balancer."""

    def __init__(self, terms: dict[str, float | None]) -> None:
        super().__init__()
        self.weights = {name: 1.0 if weight is None else weight for name, weight in terms.items()}

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        return sum(self.weights[name] * value for name, value in terms.items())  # type: ignore[return-value]


def extract(output: Any, batch: Any) -> Extracted:
    """Read a tensor, or a dict's logits; 'aux' is a loss."""
    if isinstance(output, Tensor):
        return Extracted(output)
    return Extracted(output["logits"], {"hidden": output["hidden"]}, {"aux": output["aux"]})


def make_auto() -> Callable[[Any, Any], Extracted]:
    """Make the extractor."""
    return extract


def registry() -> Registry:
    """Return a registry with all of the above."""
    made = Registry()
    for name, model in (("net", Net), ("inplace", InplaceNet), ("dict_net", DictNet), ("head", Head)):
        made.register("model", name, model)
    labels = [Input("input", default="student", role=Role.POSITIONS), Input("target", default="batch:target")]
    made.register("loss", "ce", CE, inputs=labels)
    made.register("loss", "token_ce", TokenCE, inputs=labels)
    for name, loss in (("mse", MSE), ("scaled", Scaled), ("uses_module", UsesModule)):
        made.register("loss", name, loss)
    made.register("adapter", "projector", Projector)
    made.register("balancer", "weighted_sum", WeightedSum)
    made.register("output_extractor", "auto", make_auto)
    return made


def make_batch(rows: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Return a batch of random samples."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "input": torch.randn(rows, 5, generator=generator),
        "target": torch.randint(3, (rows,), generator=generator),
        "index": torch.arange(rows),
    }


def config(text: str, plugins: Registry | None = None) -> Config:
    """Check a config for models that the test brings."""
    return load_config("version: 1\n" + text, external_models=(), plugins=plugins or registry())


def objective(
    text: str, models: dict[str, nn.Module], batch: dict[str, Tensor] | None = None, **options: Any
) -> Objective:
    """Build an Objective from the text of `stages:` and the models."""
    names = "".join(f"  {name}: {{}}\n" for name in models)
    checked = config(f"models:\n{names}{text}" if "models:" not in text else text)
    return build_objective(checked, models=models, example_batch=batch or make_batch(), **options)


def one_stage(losses: str, train: str = "student", extra: str = "") -> str:
    """Return the text of a config's only stage."""
    return f"{extra}stages:\n  - name: only\n    train: [{train}]\n    losses: {losses}\n"
