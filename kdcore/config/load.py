"""From a file to a checked config, every mistake reported in one pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path as FilePath
from typing import Any

from kdcore.config.caches import check_caches
from kdcore.config.checker import CRITERION_REPAIR, Checker
from kdcore.config.config import CheckpointsConfig, Config, StageConfig
from kdcore.config.distributed import check_distributed
from kdcore.config.environment import expand_environment
from kdcore.config.overrides import apply_overrides
from kdcore.config.parts import check_adapters, check_cycles, check_data, check_models
from kdcore.config.reader import read_config, read_text
from kdcore.config.schemas import load_schema
from kdcore.config.search import check_search
from kdcore.config.source import Source
from kdcore.config.stages import StageChecker
from kdcore.config.validation import validate, with_defaults
from kdcore.errors import ConfigError, Problem
from kdcore.plugins import Registry, registry

_UNKNOWN_CRITERION = "unknown key 'criterion'"


def load_config(
    config: str | FilePath | Source,
    *,
    overrides: Sequence[str] = (),
    external_models: Iterable[str] | None = None,
    plugins: Registry | None = None,
) -> Config:
    """Read and check a config.

    Arguments:
        config: a file, YAML text (with a line break), or a Source already read.
        overrides: assignments such as `stages.distill.epochs=5`.
        external_models: names of the models that the caller brings; given (even empty), nothing
            that only a run needs (types of models, data, optimizer, epochs) is required.
        plugins: where components are looked up; by default all that are installed.

    Raises:
        ConfigError: with every problem found.
    """
    source = config if isinstance(config, Source) else _read(config)
    source = expand_environment(apply_overrides(source, overrides))
    return _check(source, plugins or registry(), external_models)


def _read(config: str | FilePath) -> Source:
    if not isinstance(config, (str, PathLike)):
        raise ConfigError(
            [
                Problem(
                    f"a config is a file or YAML text, found a {type(config).__name__}",
                    repair="pass the file's path, or its text with a line break in it, as yaml.safe_dump makes it",
                )
            ]
        )
    return read_text(config) if isinstance(config, str) and "\n" in config else read_config(config)


def _check(source: Source, plugins: Registry, external_models: Iterable[str] | None) -> Config:
    schema = load_schema("config")
    data = copy.deepcopy(source.data)
    problems = [_clarified(problem) for problem in validate(data, schema, source=source)]
    _write_out(data, schema)
    models, adapters = _mapping(data, "models"), _mapping(data, "adapters")
    external = external_models is not None
    for name in external_models or ():
        if name not in models:
            problems.append(Problem(f"the config names no model {name!r}", source.place(("models",))))
    checker = Checker(source, plugins, [*models, *adapters])
    checked_data = check_data(checker, _mapping(data, "data"), models)
    checked_models = check_models(checker, models, _mapping(data, "data"), external=external)
    checked_adapters = check_adapters(checker, adapters, models)
    feeds = check_cycles(checker, checked_models, checked_adapters)
    stage_checker = StageChecker(checker, _mapping(data, "data"), frozenset(models), feeds, external=external)
    nodes = data.get("stages")
    stages = [stage_checker.check(node, index) for index, node in enumerate(nodes if isinstance(nodes, list) else [])]
    check_caches(checker, checked_models, stages)
    distributed = check_distributed(checker, _mapping(data, "distributed"), models, stages)
    trial = None if external else lambda changed: _examined(changed, plugins)
    search = check_search(checker, data, trial)
    problems += checker.problems
    if problems:
        raise ConfigError(sorted(_unique(problems), key=lambda problem: (problem.place.line, problem.place.column)))
    return Config(
        name=data["name"],
        seed=data["seed"],
        device=data["device"],
        output_dir=data["output_dir"],
        checkpoints=CheckpointsConfig(**data["checkpoints"]),
        distributed=distributed,
        data=checked_data,
        models=checked_models,
        adapters=checked_adapters,
        stages=tuple(stage for stage in stages if stage is not None),
        search=search,
        source=source,
        resolved=data,
    )


def _examined(source: Source, plugins: Registry) -> tuple[Sequence[StageConfig], list[Problem]]:
    """Return the stages of a config, none if it is wrong, and what is wrong with it."""
    try:
        return _check(source, plugins, None).stages, []
    except ConfigError as error:
        return (), list(error.problems)


def _write_out(data: Any, schema: dict[str, Any]) -> None:
    """Fill in the core's defaults in place, after writing short forms out."""
    if not isinstance(data, dict):
        return
    definitions = schema["$defs"]
    sections = {"data", "models", "adapters", "stages"}
    simple = {key: value for key, value in schema["properties"].items() if key not in sections}
    given = {key: data[key] for key in data if key in simple}
    data.update(with_defaults(given, {"properties": simple, "$defs": definitions}))
    for section, definition in (("data", "data"), ("models", "model"), ("adapters", "adapter")):
        entries = data.setdefault(section, {})
        for name, node in entries.items() if isinstance(entries, dict) else ():
            entries[name] = _completed(_as_mapping(node), definitions, definition)
    stages: Any = data.get("stages")
    for index, node in enumerate(stages if isinstance(stages, list) else []):
        if not isinstance(node, dict):
            continue
        stages[index] = stage = _completed(node, definitions, "stage")
        losses = stage.get("losses")
        for name, loss in losses.items() if isinstance(losses, dict) else ():
            losses[name] = _completed(_as_mapping(loss), definitions, "loss")


def _as_mapping(node: Any) -> Any:
    return {"type": node} if isinstance(node, str) else node


def _completed(node: Any, definitions: dict[str, Any], name: str) -> Any:
    if not isinstance(node, dict):
        return node
    definition = definitions[name]
    if "anyOf" in definition:
        definition = next(option for option in definition["anyOf"] if option.get("type") == "object")
    return with_defaults(node, {**definition, "$defs": definitions})


def _mapping(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _clarified(problem: Problem) -> Problem:
    if problem.what.startswith(_UNKNOWN_CRITERION):
        return Problem(problem.what, problem.place, CRITERION_REPAIR)
    return problem


def _unique(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))
