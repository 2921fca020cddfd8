"""Checks of the parts that stages share: data sets, models and adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdcore.component import CheckContext, Kind
from kdcore.config.caches import read_cache
from kdcore.config.checker import Checker, expand
from kdcore.config.config import AdapterConfig, Argument, Constant, DataConfig, ModelConfig, Path
from kdcore.errors import suggestion


def check_data(checker: Checker, data: dict[str, Any], models: Mapping[str, Any]) -> dict[str, DataConfig]:
    """Check the entries of `data:`."""
    checked = {}
    context = CheckContext(data=_mappings(data), models=_mappings(models))
    for name, node in data.items():
        path: Path = ("data", name)
        part = checker.part(Kind.DATASET, node, path)
        if part is None:
            continue
        checker.component_check(part, context, path)
        if "sampler" in node and node.get("shuffle"):
            checker.problem("shuffle and sampler both choose the order", (*path, "sampler"), "remove one of them")
        if node.get("prefetch_factor") and not node.get("num_workers"):
            checker.problem("prefetch_factor needs num_workers of at least 1", (*path, "prefetch_factor"))
        checked[name] = DataConfig(
            name=name,
            part=part,
            batch_size=node.get("batch_size", 64),
            sampler=node.get("sampler") or ("shuffle" if node.get("shuffle") else "sequential"),
            drop_last=node.get("drop_last", False),
            num_workers=node.get("num_workers", 0),
            pin_memory=node.get("pin_memory", False),
            prefetch_factor=node.get("prefetch_factor"),
            persistent_workers=node.get("persistent_workers", True),
            place=checker.source.place(path),
        )
    return checked


def check_models(
    checker: Checker, models: dict[str, Any], data: Mapping[str, Any], *, external: bool
) -> dict[str, ModelConfig]:
    """Check the entries of `models:`; with `external`, their types may be missing (the caller has them)."""
    checked = {}
    for name, node in models.items():
        path: Path = ("models", name)
        if name == "batch":
            checker.problem("a model cannot be named 'batch'", path, "batch: names entries of the batch", key=True)
        if not isinstance(node, dict):
            continue
        part = None
        if "type" in node:
            part = checker.part(Kind.MODEL, node, path)
        elif not external:
            checker.problem(
                f"model {name!r} has no type",
                path,
                "only build_objective(models={...}) accepts models without one; "
                + suggestion(name, checker.registry.names(Kind.MODEL), noun="model types"),
            )
        output = checker.part(Kind.OUTPUT_EXTRACTOR, expand(node, "output"), (*path, "output"))
        args, kwargs = _call(checker, node["inputs"], (*path, "inputs"))
        for each, where in ((part, path), (output, (*path, "output"))):
            if each is not None:
                checker.component_check(each, _of_model(args, kwargs, data, models), where)
        if output is not None:
            checked[name] = ModelConfig(
                name=name,
                part=part,
                args=args,
                kwargs=kwargs,
                output=output,
                weights=checker.weights(node.get("weights"), path),
                seed=node.get("seed"),
                clone_captures=node.get("clone_captures", False),
                place=checker.source.place(path),
                cache=read_cache(checker, node.get("cache"), (*path, "cache")),
            )
    return checked


def check_adapters(checker: Checker, adapters: dict[str, Any], models: Mapping[str, Any]) -> dict[str, AdapterConfig]:
    """Check the entries of `adapters:`."""
    checked = {}
    for name, node in adapters.items():
        path: Path = ("adapters", name)
        if name in models or name == "batch":
            checker.problem(f"{name!r} is already the name of a model or of the batch", path, "rename it", key=True)
        part = checker.part(Kind.ADAPTER, node, path)
        if part is None:
            continue
        inputs = checker.bindings(part.registered.component.inputs, node.get("inputs"), path, str(part.registered))
        written = {key: str(bound) for key, bound in inputs.items() if not isinstance(bound, list)}
        checker.component_check(part, CheckContext(inputs=written), path)
        like = checker.address(node["like"], (*path, "like")) if "like" in node else None
        checked[name] = AdapterConfig(
            name=name,
            part=part,
            inputs=inputs,
            like=like,
            weights=checker.weights(node.get("weights"), path),
            seed=node.get("seed"),
            place=checker.source.place(path),
        )
    return checked


def check_cycles(
    checker: Checker, models: Mapping[str, ModelConfig], adapters: Mapping[str, AdapterConfig]
) -> dict[str, set[str]]:
    """Report models and adapters that wait for each other's outputs; returns whose outputs each is fed by."""
    parts: dict[str, ModelConfig | AdapterConfig] = {**models, **adapters}
    feeds = {name: {address.name for address in part.addresses} for name, part in parts.items()}
    # `like` feeds nothing, but its shape must be known first.
    likes = {name: {adapter.like.name} for name, adapter in adapters.items() if adapter.like is not None}
    needs = {name: fed | likes.get(name, set()) for name, fed in feeds.items()}
    settled = {"batch"}
    while ready := {name for name, roots in needs.items() if name not in settled and roots & needs.keys() <= settled}:
        settled |= ready
    waiting = sorted(needs.keys() - settled)
    if waiting:
        path: Path = ("adapters" if waiting[0] in adapters else "models", waiting[0])
        what = f"these wait for each other's outputs: {', '.join(waiting)}"
        if len(waiting) == 1:
            what = f"{waiting[0]!r} waits for its own output"
        checker.problem(what, path, "break the cycle")
    return feeds


def _of_model(
    args: Iterable[Argument], kwargs: Mapping[str, Argument], data: Mapping[str, Any], models: Mapping[str, Any]
) -> CheckContext:
    called = {**{str(index): each for index, each in enumerate(args)}, **kwargs}
    inputs: dict[str, str | list[str]] = {
        name: str(each) for name, each in called.items() if not isinstance(each, Constant)
    }
    return CheckContext(inputs=inputs, data=_mappings(data), models=_mappings(models))


def _mappings(nodes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: node for name, node in nodes.items() if isinstance(node, Mapping)}


def _call(checker: Checker, node: Any, path: Path) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    if isinstance(node, list):
        found = [_argument(checker, item, (*path, index)) for index, item in enumerate(node)]
        return tuple(argument for argument in found if argument is not None), {}
    if isinstance(node, dict):
        named = {key: _argument(checker, item, (*path, key)) for key, item in node.items()}
        return (), {key: argument for key, argument in named.items() if argument is not None}
    return (), {}


def _argument(checker: Checker, node: Any, path: Path) -> Argument | None:
    if isinstance(node, str):
        return checker.address(node, path)
    return Constant(node.get("value") if isinstance(node, dict) else node)
