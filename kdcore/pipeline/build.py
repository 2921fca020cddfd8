"""`build_objective`, for people who own their training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.collective import process_count
from kdcore.config.config import Config, StageConfig
from kdcore.config.load import load_config
from kdcore.contracts import Facts
from kdcore.errors import WiringError, suggestion
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.wire import wire


def build_objective(
    config: str | Path | Config,
    *,
    models: Mapping[str, nn.Module],
    example_batch: Mapping[str, Any],
    stage: str | None = None,
    dataset: Any = None,
    overrides: Sequence[str] = (),
) -> Objective:
    """Build the Objective of one stage around the caller's models.

    Arguments:
        config: a config file, YAML text (with a line break), or one already loaded; data, optimizer and epochs may be
            missing.
        models: the models by name; those that the config gives a type may be left out.
        example_batch: a dict of tensors such as training will see, on the models' device.
        stage: which stage; may be left out where there is only one.
        dataset: the training set, for losses that ask for its length, classes or targets.
        overrides: assignments such as `stages.0.losses.kd.weight=0.5`.

    Raises:
        ConfigError: the config is wrong.
        WiringError, AddressError: models, batch and config do not fit together.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides=overrides, external_models=models)
    chosen = _choose(config, stage)
    _check_batch(example_batch)
    assembly = Assembly.build(config, _device(models, example_batch), given=models)
    objective = wire(chosen, assembly, example_batch, data_facts(dataset)).objective
    _check_caches(config, chosen, objective)
    if chosen.compile:
        objective.compile_models()
    return objective


def data_facts(dataset: Any) -> Facts:
    """Return what a data set tells about itself."""
    if dataset is None:
        return Facts(num_processes=process_count())
    return Facts(
        num_processes=process_count(),
        num_samples=len(dataset),
        num_classes=getattr(dataset, "num_classes", None),
        targets=getattr(dataset, "targets", None),
    )


def _check_caches(config: Config, stage: StageConfig, objective: Objective) -> None:
    """Raise WiringError for a cache that a run would fill and read: only the engine knows the samples."""
    for name, model in config.models.items():
        used = name not in stage.train and objective.node_pass(name, training=True) is not None
        if model.cache is not None and used:
            raise WiringError(
                f"{name!r} has a cache, which only kd run reads and fills; here it runs in every step",
                place=model.cache.place,
                repair=f'write cache: false, or pass overrides=["models.{name}.cache=false"]; results that you store '
                "yourself can be an entry of the batch, and a loss be bound to batch:<entry>",
            )


def _choose(config: Config, name: str | None) -> StageConfig:
    names = [stage.name for stage in config.stages]
    if name is None and len(names) == 1:
        return config.stages[0]
    for stage in config.stages:
        if stage.name == name:
            return stage
    what = f"there is no stage {name!r}" if name else f"the config has {len(names)} stages"
    raise WiringError(what, repair=suggestion(name or "", names, noun="stages") + "; pass stage=")


def _check_batch(batch: Mapping[str, Any]) -> None:
    if not isinstance(batch, Mapping):
        raise WiringError(
            f"a batch is a dict of named entries, found {type(batch).__name__}",
            repair='pass example_batch={"input": x, "target": y}',
        )


def _device(models: Mapping[str, nn.Module], batch: Mapping[str, Any]) -> torch.device:
    for model in models.values():
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return next((value.device for value in batch.values() if isinstance(value, Tensor)), torch.device("cpu"))
