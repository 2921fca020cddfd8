"""The models and adapters of a run: built once, kept from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kdcore.config.config import AdapterConfig, Config, ModelConfig, Part, StageConfig, WeightsConfig
from kdcore.config.stages import INITIAL
from kdcore.contracts import Facts, TensorFacts, set_up
from kdcore.errors import KdcoreError, Place, WiringError
from kdcore.pipeline.diagnosis import describe, reason
from kdcore.pipeline.randomness import derive_seed, forked_generators
from kdcore.pipeline.starts import tensors_to_take
from kdcore.pipeline.weights import load_weights


@dataclass
class Assembly:
    """Live models and adapters, what was loaded into them and what has been trained.

    `external` says that the caller brought the models and answers for their weights.
    """

    config: Config
    device: torch.device
    models: dict[str, nn.Module] = field(default_factory=dict)
    adapters: dict[str, nn.Module] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    external: bool = False
    _facts: dict[str, Facts] = field(default_factory=dict)

    @classmethod
    def build(cls, config: Config, device: torch.device, given: Mapping[str, nn.Module] | None = None) -> Assembly:
        """Build the models that `given` does not bring, and load their weights."""
        assembly = cls(config, device, external=given is not None)
        for name, model in config.models.items():
            # A model that the caller brings stays where it is.
            brought = given is not None and name in given
            assembly.models[name] = given[name] if given and brought else assembly._build_model(model).to(device)
        return assembly

    def module(self, name: str) -> nn.Module:
        """Return a model or an adapter that has been set up."""
        return self.models[name] if name in self.models else self.adapters[name]

    def adapter(self, config: AdapterConfig, facts: Facts) -> nn.Module:
        """Return an adapter, built and set up on first use."""
        if config.name not in self.adapters:
            module = self._build_adapter(config, facts)
            self._load(config.name, module, config.weights)
            self.adapters[config.name] = _placed(module, facts, self.device)
            self._facts[config.name] = facts
        return self.adapters[config.name]

    def renew(self, name: str, state: Mapping[str, Any]) -> None:
        """Put a model or adapter that is built anew and holds `state` in the place of one that is used up."""
        if name in self.models:
            fresh = self._build_bare(self.config.models[name]).to(self.device)
            self.models[name] = fresh
        else:
            facts = self._facts[name]
            fresh = _placed(self._build_adapter(self.config.adapters[name], facts), facts, self.device)
            self.adapters[name] = fresh
        fresh.load_state_dict(state)

    def begin(self, stage: StageConfig) -> None:
        """Take note of what the weights are that `start:` gives; raises WiringError if they do not fit."""
        for name, start in stage.start.items():
            tensors_to_take(name, start, self.models[name], self.models[start.model], stage.place)
            if start.only:
                continue  # the rest of it is what it was
            if start.stage != INITIAL or start.model in self.loaded:
                self.trained.add(name)
            elif name not in self.loaded:
                self.trained.discard(name)

    def check_trained(self, name: str, stage: str, place: Place) -> None:
        """Raise WiringError if a frozen part of a stage has nothing but random weights."""
        module = self.module(name)
        if name in self.trained or name in self.loaded or not any(True for _ in module.parameters()):
            return
        config = self.config.adapters.get(name) or self.config.models[name]
        as_built = config.weights is not None
        if as_built or (self.external and name in self.models):
            return
        kind = "model" if name in self.models else "adapter"
        raise WiringError(
            f"the {kind} {name!r} is frozen in stage {stage!r}, but no earlier stage trained it and no weights "
            "were loaded: it would be random",
            place=place,
            repair=f"give it weights: <file>, add it to train:, or write weights: as_built if its factory loads "
            f"weights itself (or you want {name!r} random)",
        )

    def _build_model(self, config: ModelConfig) -> nn.Module:
        if config.part is None:
            raise WiringError(
                f"the caller did not bring the model {config.name!r}, and the config gives it no type",
                place=config.place,
                repair=f"pass models={{{config.name!r}: ...}} or write a type",
            )
        module = self._build_bare(config)
        self._load(config.name, module, config.weights)
        return module

    def _build_bare(self, config: ModelConfig) -> nn.Module:
        assert config.part is not None
        with forked_generators(self._seed(config)):
            return _made(config.part, config.name, config.place)

    def _build_adapter(self, config: AdapterConfig, facts: Facts) -> nn.Module:
        with forked_generators(self._seed(config)):
            module = _made(config.part, config.name, config.place)
            try:
                set_up(module, facts)
            except KdcoreError as error:
                raise error.at(config.place) from error
            except Exception as error:  # an adapter may fail in any way; the cause is chained and named
                raise _setup_failed(config.name, facts, error, config.place) from error
        return module

    def _load(self, name: str, module: nn.Module, weights: WeightsConfig | None) -> None:
        if weights is not None and weights.file is not None:
            self.loaded[name] = load_weights(name, module, weights)

    def _seed(self, config: ModelConfig | AdapterConfig) -> int:
        return config.seed if config.seed is not None else derive_seed(self.config.seed, "weights", config.name)


def _made(part: Part, name: str, place: Place) -> nn.Module:
    try:
        made = part.build()
    except KdcoreError as error:
        raise error.at(place) from error
    except Exception as error:  # a factory may fail in any way; the cause is chained and named
        raise WiringError(
            f"{part.registered} could not be built for {name!r} with params {dict(part.params)}: "
            f"{type(error).__name__}: {error}",
            place=place,
        ) from error
    if not isinstance(made, nn.Module):
        raise WiringError(f"{part.registered} returned a {type(made).__name__}, not an nn.Module", place=place)
    return made


def _placed(module: nn.Module, facts: Facts, device: torch.device) -> nn.Module:
    """Bring an adapter to where its features are, and to their dtype; its parameters are made in torch's default."""
    dtypes = {each.dtype for each in facts.inputs.values() if isinstance(each, TensorFacts)}
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    return module.to(device, floating[0] if len(floating) == 1 else None)


def _setup_failed(name: str, facts: Facts, error: Exception, place: Place) -> WiringError:
    shapes = ", ".join(f"{key}: {describe_facts(value)}" for key, value in facts.inputs.items())
    like = f", like: {describe_facts(facts.like)}" if facts.like else ""
    return WiringError(f"{name!r} could not be set up for {shapes}{like}: {reason(error)}", place=place)


def describe_facts(value: object) -> str:
    """Return the shape in a TensorFacts, or what else there is."""
    shape = getattr(value, "shape", None)
    return str(list(shape)) if shape is not None else describe(value)
