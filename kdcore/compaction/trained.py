"""The trained model of a run folder, and batches of the data it was trained on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.address import Address
from kdcore.advice import Command
from kdcore.compaction.call import Call
from kdcore.config.config import Config, Constant, ModelConfig, StageConfig
from kdcore.engine.data import Datasets
from kdcore.engine.folder import RunFolder
from kdcore.engine.plugin_files import recorded_plugin_files
from kdcore.errors import Place, RunError, WiringError, suggestion
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.randomness import forked_generators
from kdcore.pipeline.readers import batch_reader
from kdcore.pipeline.weights import load_state

# Data that nobody trained on comes first.
_ROLES = ("val", "test", "train")


@dataclass(frozen=True)
class Trained:
    """A model with its final weights, how it is built, where they were read, and calls with real batches."""

    name: str
    module: nn.Module
    type: str
    params: Mapping[str, Any]
    weights: Path
    calls: list[Call]


def read_trained(folder: RunFolder, config: Config, model: str | None, stage: str | None, batches: int) -> Trained:
    """Build a model of a run as the run does, with the weights it ended with.

    Arguments:
        folder: of the run.
        config: the run's own.
        model: which model; by default `student`, or the only one that was trained.
        stage: after which stage; by default the last that trained it.
        batches: how many batches are read.

    Raises:
        RunError: no such model or stage, or none that was trained.
        WeightsError: there are no weights, or they are damaged.
        WiringError: the model is fed by another model.
    """
    chosen = _stage(config, stage)
    name = _model(config, model, chosen)
    trainers = [each for each in config.stages if name in each.train and chosen in (None, each)]
    if not trainers:
        raise RunError(
            f"{name!r} is not trained in stage {stage!r}" if stage else f"this run does not train {name!r}",
            repair=suggestion(name, _trained(config, chosen), noun="trained models"),
        )
    file = folder.final(name) if chosen is None else folder.weights(chosen.name, name)
    if not file.is_file():
        raise RunError(
            f"the run has no weights of {name!r}: there is no {str(file)!r}",
            repair=f"if it was interrupted before stage {trainers[-1].name!r} ended, complete it: "
            + Command("run", recorded_plugin_files(folder.path)).resume(folder.path),
        )
    described = config.models[name]
    calls = _calls(config, trainers[-1], described, batches)
    with forked_generators():
        # Not its starting weights, whose file may be gone; nor the other models.
        only = replace(config, models={name: replace(described, weights=None)})
        module = Assembly.build(only, torch.device("cpu")).models[name]
    try:
        load_state(module, file, Place(file=str(file)))
    except RuntimeError as error:
        raise RunError(
            f"{str(file)!r} does not fit {name!r}: {str(error).splitlines()[-1].strip()}",
            repair="are the plugins of the version that the run had? see environment.json in the run folder",
        ) from error
    written = config.resolved["models"][name]
    assert described.part is not None
    return Trained(name, module.eval(), written["type"], dict(described.part.params), file, calls)


def _stage(config: Config, name: str | None) -> StageConfig | None:
    found = next((each for each in config.stages if each.name == name), None)
    if name is not None and found is None:
        names = [each.name for each in config.stages]
        raise RunError(f"the run has no stage {name!r}", repair=suggestion(name, names, noun="stages"))
    return found


def _trained(config: Config, stage: StageConfig | None) -> list[str]:
    stages = config.stages if stage is None else (stage,)
    return sorted({name for each in stages for name in each.train if name in config.models})


def _model(config: Config, name: str | None, stage: StageConfig | None) -> str:
    trained = _trained(config, stage)
    if name is not None:
        if name not in config.models:
            raise RunError(f"the run has no model {name!r}", repair=suggestion(name, config.models, noun="models"))
        return name
    if "student" in trained:
        return "student"
    if len(trained) == 1:
        return trained[0]
    raise RunError(
        f"which model? the run trains {', '.join(trained) or 'none'}",
        repair="name one: --model NAME" if trained else "",
    )


def _calls(config: Config, stage: StageConfig, model: ModelConfig, count: int) -> list[Call]:
    arguments = [*model.args, *model.kwargs.values()]
    foreign = [str(each) for each in arguments if isinstance(each, Address) and not each.is_batch]
    if foreign:
        raise WiringError(
            f"{model.name!r} is called with {', '.join(foreign)}, which another model yields",
            place=model.place,
            repair="compact it from Python, where you bring the inputs: kdcore.compact(model, inputs)",
        )
    role = next(each for each in _ROLES if each in stage.data)
    loader = Datasets(config.data).loader(stage.data[role], config.seed, stage=stage.name)
    with forked_generators(config.seed):
        return [_call(model, batch) for batch in itertools.islice(loader.epoch(0), count)]


def _call(model: ModelConfig, batch: Mapping[str, Any]) -> Call:
    def value(argument: Any) -> Any:
        return argument.value if isinstance(argument, Constant) else batch_reader(argument)(batch)

    return Call(tuple(map(value, model.args)), {key: value(each) for key, each in model.kwargs.items()})
