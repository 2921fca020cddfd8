"""Which models of a stage are judged against the labels, and whether what decides on epochs will be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdcore.address import Address
from kdcore.config.config import Config, StageConfig
from kdcore.engine.device import to_device
from kdcore.engine.loader import Loader
from kdcore.engine.metrics import check_judgeable
from kdcore.errors import DataError, KdcoreError, WiringError
from kdcore.pipeline.assembly import Assembly
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.randomness import forked_generators


class Judged(NamedTuple):
    """The models that are judged: those chosen by the config, and frozen ones that a loss reads anyway."""

    chosen: list[str]
    frozen: list[str]


def find_judged(
    config: Config,
    stage: StageConfig,
    assembly: Assembly,
    loaders: Mapping[str, Loader],
    objective: Objective,
    batch: dict[str, Any],
) -> Judged:
    """Look at one evaluation pass of every split in `loaders` and return whom to judge.

    Raises:
        WiringError: what the config asks for cannot be judged, or a metric that decides something will not be there.
        DataError: a split holds labels that a model has no output for, or lacks entries that training has.
    """
    observed = _observe(objective, batch)
    target = observed.get(stage.metrics.target)
    classes = getattr(loaders["train"].dataset, "num_classes", None)
    judged = Judged([], [])
    reasons: dict[str, str] = {}
    for name in dict.fromkeys((*stage.metrics.models, *read_whole(stage, assembly))):
        chosen = name in stage.metrics.models
        try:
            reason = check_judgeable(name, observed.get(Address(name)), target, stage.metrics, classes)
        except KdcoreError as error:
            raise error.at(config.models[name].place) from None
        if reason is None:
            (judged.chosen if chosen else judged.frozen).append(name)
        elif chosen and stage.metrics.explicit:
            where = config.place("stages", stage.index, "metrics")
            repair = "name the labels with target:, or choose other kinds:"
            raise WiringError(f"metrics of {name!r}: {reason}", place=where, repair=repair)
        else:
            reasons[name] = reason
    _check_selected(config, stage, judged.chosen, reasons)
    for loader in loaders.values():
        _check_labels(stage, loader, judged, observed)
    for role, loader in loaders.items():
        if role != "train":
            _check_split(stage, assembly, loader, objective, judged)
    return judged


def read_whole(stage: StageConfig, assembly: Assembly) -> list[str]:
    """Return the frozen models whose output a loss of the stage reads anyway."""
    bound = [address for term in stage.terms for address in term.addresses]
    names = dict.fromkeys(each.name for each in bound if each == Address(each.name))
    return [name for name in names if name in assembly.models and name not in stage.train]


def _observe(objective: Objective, batch: dict[str, Any]) -> dict[Address, Any]:
    objective.eval()
    with torch.no_grad(), forked_generators():
        objective(batch)
    return objective.observed


def _check_selected(config: Config, stage: StageConfig, judged: list[str], reasons: Mapping[str, str]) -> None:
    """Raise WiringError before training if a metric that decides something cannot be computed."""
    for key, chosen in (("best", stage.best), ("early_stop", stage.early_stop)):
        if chosen is None:
            continue
        split, _, rest = chosen.metric.partition("/")
        model = rest.split("/")[0]
        if "/" in rest and model != "losses" and model not in judged:
            why = reasons.get(model, f"the output of {model!r} is not judged in this stage")
            raise WiringError(
                f"{chosen.metric!r} cannot be computed: {why}",
                place=config.place("stages", stage.index, key, "metric"),
                repair=f"choose {split}/loss, or name the model and its labels under metrics:",
            )


def _check_labels(stage: StageConfig, loader: Loader, judged: Judged, observed: Mapping[Address, Any]) -> None:
    """Raise DataError if a data set says that it holds labels which a model has no output for."""
    labels = _whole_numbers(getattr(loader.dataset, "targets", None))
    if labels is None:
        return
    labels = labels[labels != stage.metrics.ignore_index]
    for name in (*judged.chosen, *judged.frozen) if len(labels) else ():
        count = observed[Address(name)].shape[stage.metrics.class_dim]
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= count:
            raise DataError(
                f"data {loader.config.name!r} has labels from {low} to {high}, but {name!r} has {count} outputs, "
                f"for labels from 0 to {count - 1}",
                place=loader.config.place,
                repair="build the model with as many classes as the data has, or mend the labels",
            )


def _whole_numbers(targets: Any) -> Tensor | None:
    try:
        labels = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if labels.is_floating_point() or labels.is_complex() else labels


def _check_split(stage: StageConfig, assembly: Assembly, loader: Loader, objective: Objective, judged: Judged) -> None:
    """Raise if a split's first batch cannot be evaluated as the training data can."""
    batch = to_device(loader.first_batch(), assembly.device)
    try:
        observed = _observe(objective, batch)
    except KdcoreError as error:
        what = f"data {loader.config.name!r} cannot be evaluated: {error.problem.what}"
        raise DataError(what, place=loader.config.place, repair=error.problem.repair) from error
    for name in (*judged.chosen, *judged.frozen):
        target = observed.get(stage.metrics.target)
        reason = check_judgeable(name, observed.get(Address(name)), target, stage.metrics, None)
        if reason is not None:
            raise DataError(
                f"{name!r} cannot be judged on data {loader.config.name!r}: {reason}",
                place=loader.config.place,
                repair="let all splits yield the same entries",
            )
