"""A stage around one loss: its example's inputs as what a student, a teacher and a batch yield."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from kdcore.component import Kind, Role
from kdcore.config.load import load_config
from kdcore.contracts import Extracted
from kdcore.pipeline.build import build_objective
from kdcore.pipeline.objective import Objective
from kdcore.plugins import Registry
from kdcore.testing.nested import floating, mapped
from kdcore.testing.subject import BATCH, Subject

TERM = "term"
# Under this key a model's output holds what its bare address means.
VALUE = "value"


class Holder(nn.Module):
    """A model whose output is a dict of given tensors; those that learn are its parameters."""

    def __init__(self, values: Mapping[str, Any], *, learns: bool) -> None:
        super().__init__()
        self.parts = nn.Module()
        for name, each in values.items():
            if isinstance(each, nn.Module):
                self.parts.add_module(name, each)
        self.values = {name: each for name, each in values.items() if not isinstance(each, nn.Module)}
        self.leaves = nn.ParameterList(floating(list(self.values.values())) if learns else [])

    def forward(self, input: Tensor) -> dict[str, Any]:
        """Return the tensors, whatever the input."""
        leaves = iter(self.leaves)
        return {
            name: mapped(lambda each: next(leaves, each) * 1 if each.is_floating_point() else each, value)
            for name, value in self.values.items()
        }


class Entries:
    """The extractor of such models."""

    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        """Return the value, and the rest by name."""
        return Extracted(output.get(VALUE), {name: each for name, each in output.items() if name != VALUE})


class Sum(nn.Module):
    """The balancer: there is one term."""

    def __init__(self, terms: Mapping[str, float]) -> None:
        super().__init__()

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum."""
        return torch.stack(list(terms.values())).sum()


def model_of(address: str | None) -> str:
    """Return the name with which an address begins."""
    return re.split("[:#@]", address or "")[0]


@dataclass(frozen=True)
class Samples:
    """What a loss may ask of the data set."""

    num_samples: int
    num_classes: int | None
    targets: Any

    def __len__(self) -> int:
        return self.num_samples


@dataclass(frozen=True)
class Staged:
    """The inputs of an example, handed out to two models and a batch."""

    subject: Subject
    inputs: Mapping[str, Any]

    @property
    def student(self) -> Holder:
        """A model that yields what learns."""
        return Holder(self._of("student"), learns=True)

    @property
    def teacher(self) -> Holder:
        """A model that yields what does not."""
        return Holder(self._of("teacher"), learns=False)

    @property
    def batch(self) -> dict[str, Any]:
        """A batch of the labels and indices, under the names that default addresses give them."""
        named = {self._address(name).removeprefix("batch:"): self.inputs[name] for name in self._names("batch")}
        return {"input": torch.zeros(BATCH), **named}

    def objective(self, student: nn.Module) -> Objective:
        """Build the Objective of a stage with the loss as its only term."""
        component = self.subject.registered.component
        plugins = Registry()
        schema = self.subject.registered.schema
        plugins.register(
            Kind.LOSS, component.name, self.subject.registered.factory(), schema=schema, inputs=component.inputs
        )
        plugins.register(Kind.OUTPUT_EXTRACTOR, "auto", Entries)
        plugins.register(Kind.BALANCER, "weighted_sum", Sum)
        models = {"student": student, "teacher": self.teacher}
        config = load_config(yaml.safe_dump(self._config()), external_models=models, plugins=plugins)
        facts = self.subject.given.facts
        told = facts.num_samples is not None or facts.num_classes is not None
        data = Samples(facts.num_samples or BATCH, facts.num_classes, facts.targets) if told else None
        return build_objective(config, models=models, example_batch=self.batch, dataset=data)

    def _config(self) -> dict[str, Any]:
        usual = {each.name: each.default for each in self.subject.registered.component.inputs if each.required}
        bound = {name: self._bound(name) for name in self.inputs}
        # A default address is left for the core to fill in, one of a model that nobody has too.
        known = ("student", "teacher", "batch", "")
        left = {name for name, each in usual.items() if each == bound.get(name) or model_of(each) not in known}
        written = {name: address for name, address in bound.items() if name not in left}
        loss = {"type": self.subject.registered.name, "params": dict(self.subject.given.params), "inputs": written}
        stage = {"name": "stage", "train": ["student"], "losses": {TERM: loss}}
        return {"version": 1, "models": {"student": {}, "teacher": {}}, "stages": [stage]}

    def _bound(self, name: str) -> Any:
        value, address = self.inputs[name], self._address(name)
        if isinstance(value, (list, tuple)):
            return [f"{address}#{place}" for place in range(len(value))]
        return address

    def _address(self, name: str) -> str:
        usual = {each.name: each.default or "" for each in self.subject.registered.component.inputs}.get(name, "")
        side = self._side(name)
        if usual == side or (side == "batch" and usual.startswith("batch:")):
            return usual
        if side == "batch":
            return f"batch:{name}"
        return f"{side}:parts.{name}@module" if isinstance(self.inputs[name], nn.Module) else f"{side}#{name}"

    def _side(self, name: str) -> str:
        if name in self.subject.learns:
            return "student"
        value = self.inputs[name]
        if isinstance(value, nn.Module):
            return "teacher" if name.startswith("teacher") else "student"
        plain = self.subject.roles.get(name) is not Role.LABELS and floating(value)
        return "teacher" if plain else "batch"

    def _names(self, side: str) -> list[str]:
        return [name for name in self.inputs if self._side(name) == side]

    def _of(self, side: str) -> dict[str, Any]:
        return {VALUE if self._address(name) == side else name: self.inputs[name] for name in self._names(side)}
