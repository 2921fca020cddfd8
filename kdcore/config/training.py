"""Checks of a stage's `optimizer:` and `scheduler:`, classes of torch by name, without torch.

`auto` stands for totals that only a run knows: `T_max`, `total_iters`, `total_steps`, `epochs` and
`steps_per_epoch`. Milestones, periods (`T_0`, `step_size`) and cycles are choices, never `auto`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kdcore.config.schemas import load_schema
from kdcore.config.source import Source, dotted
from kdcore.config.validation import validate, with_defaults
from kdcore.errors import Place, Problem, nearest

AUTO = "auto"

Path = tuple[str | int, ...]
Checked = tuple[dict[str, Any], list[Problem]]

# Choices of the implementation, which torch makes once for the whole optimizer.
NOT_PER_GROUP = frozenset({"foreach", "fused", "capturable", "differentiable", "initial_accumulator_value"})

_COMPOSITE = "it is made of schedulers itself; torch restarts those of a composite only one level deep"
CANNOT_NEST = {
    "SequentialLR": _COMPOSITE,
    "ChainedScheduler": _COMPOSITE,
    "ReduceLROnPlateau": "it needs a metric each time it moves on",
    "OneCycleLR": "it replaces the learning rate that the others start from, and has a warm-up of its own",
}


class _Conflict(NamedTuple):
    """Params that do not go together, which the schema of each alone cannot say."""

    keys: tuple[str, ...]
    what: str
    repair: str


def check_optimizer(data: Any, *, source: Source | None = None, base: Path = ()) -> Checked:
    """Return `optimizer:` as `{type, params, groups}`, every default written out, and what is wrong with it.

    Arguments:
        data: a type, or `{type, params, groups}`; it is not changed.
        source: what the config was read from, for positions.
        base: the path of `data` in the config.
    """
    reader = _Reader("optimizer", source, base)
    node, definition = reader.read(data)
    if definition is None:
        return node, reader.problems
    options = _group_options(definition)
    for index, group in enumerate(_list(node, "groups")):
        params = group.get("params", {}) if isinstance(group, dict) else None
        if isinstance(params, dict):
            reader.judge(params, options, ("groups", index, "params"))
    if reader.problems:
        return node, reader.problems
    name, params = node["type"], node["params"]
    reader.report(_optimizer_conflicts(name, params), ("params",))
    for index, group in enumerate(node["groups"]):
        if isinstance(group["pattern"], str):
            group["pattern"] = [group["pattern"]]
        group["params"] = own = _completed(group["params"], options)
        reader.report(_optimizer_conflicts(name, {**params, **own}), ("groups", index, "params"), written=own)
    return node, reader.problems


def check_scheduler(data: Any, *, source: Source | None = None, base: Path = ()) -> Checked:
    """Return `scheduler:` as `{type, params, interval}`, every default written out, and what is wrong with it.

    Arguments:
        data: a type, or `{type, params, interval}`; it is not changed.
        source: what the config was read from, for positions.
        base: the path of `data` in the config.
    """
    reader = _Reader("scheduler", source, base)
    node, definition = reader.read(data)
    if definition is None:
        return node, reader.problems
    parts = _list(node.get("params"), "schedulers")
    for index, part in enumerate(parts):
        if isinstance(part, (str, dict)):
            parts[index] = _check_part(reader, part, node["type"], ("params", "schedulers", index))
    if reader.problems:
        return node, reader.problems
    name, params = node["type"], node["params"]
    interval = node.setdefault("interval", definition.get("x-interval", "epoch"))
    if name == "OneCycleLR":
        _complete_cycle(params)
    if name == "ReduceLROnPlateau" and interval == "step":
        reader.problem(f"{name} looks at a metric, which an epoch has and a step has not", ("interval",), "remove it")
    written = data.get("params", {}) if isinstance(data, Mapping) else {}
    reader.report(_scheduler_conflicts(name, params, written, interval), ("params",))
    return node, reader.problems


class _Reader:
    """Reads one optimizer or scheduler and collects what is wrong with it."""

    def __init__(self, noun: str, source: Source | None, base: Path) -> None:
        self.noun = noun
        self.source = source
        self.base = base
        self.schema = load_schema(f"{noun}s")
        self.problems: list[Problem] = []

    def read(self, data: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return a copy of `data`, completed if nothing is wrong, and the definition of its type if that is known."""
        if not isinstance(data, (str, Mapping)):
            example = "{type: SGD, params: {lr: 0.1}}" if self.noun == "optimizer" else "{type: CosineAnnealingLR}"
            self.problem(f"{self.noun}: must be a type or a mapping, not {data!r}", (), f"write {example}")
            return {}, None
        node: dict[str, Any] = {"type": data} if isinstance(data, str) else copy.deepcopy(dict(data))
        definition = self._definition(node.get("type"), () if isinstance(data, str) else ("type",))
        self.judge(self._without_misplaced(node, definition), self.schema, ())
        params = node.get("params", {})
        if definition is not None and isinstance(params, dict):
            self.judge(params, definition, ("params",))
        if definition is None or self.problems:
            return node, definition
        node = with_defaults(node, self.schema)
        return {**node, "params": _completed(params, definition)}, definition

    def judge(self, data: Any, schema: dict[str, Any], path: Path) -> None:
        """Check `data` against a schema and note what is wrong."""
        noun = "parameter" if "params" in path else "key"
        self.problems += validate(data, schema, source=self.source, base=(*self.base, *path), noun=noun)

    def problem(self, what: str, path: Path, repair: str, *, key: bool = False) -> None:
        """Note one thing that is wrong at `path`."""
        whole = (*self.base, *path)
        place = self.source.place(whole, key=key) if self.source else Place(dotted(whole))
        self.problems.append(Problem(what, place, repair))

    def report(self, conflicts: Iterable[_Conflict], path: Path, written: Iterable[str] | None = None) -> None:
        """Note params at `path` that do not go together; with `written`, only if one of them is among these."""
        for conflict in conflicts:
            keys = [key for key in conflict.keys if written is None or key in written]
            if keys:
                self.problem(conflict.what, (*path, keys[0]), conflict.repair)

    def _definition(self, name: Any, path: Path) -> dict[str, Any] | None:
        found = self.schema["$defs"].get(name) if isinstance(name, str) else None
        usable = {_folded(each): each for each, schema in self.schema["$defs"].items() if "not" not in schema}
        known = f"{self.noun}s of {self.schema['$comment']}: {', '.join(sorted(usable.values()))}"
        if found is not None and "not" not in found:
            return found  # type: ignore[no-any-return]
        if found is not None:
            self.problem(f"{name} cannot be used: {found['description']}", path, known)
        elif isinstance(name, str) and name:
            folded = _folded(name)
            close = [usable[each] for each in ([folded] if folded in usable else nearest(folded, usable))]
            guess = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            self.problem(f"unknown {self.noun} {name!r}", path, guess + known)
        return None

    def _without_misplaced(self, node: dict[str, Any], definition: dict[str, Any] | None) -> dict[str, Any]:
        params = (definition or {}).get("properties", {})
        misplaced = [key for key in node if key in params and key not in self.schema["properties"]]
        for key in misplaced:
            what = f"{key!r} is a parameter of {node['type']} and stands beside params:"
            self.problem(what, (key,), f"write params: {{{key}: {node[key]}}}", key=True)
        return {key: value for key, value in node.items() if key not in misplaced}


def _check_part(reader: _Reader, data: Any, outer: str, path: Path) -> dict[str, Any]:
    part = _Reader("scheduler", reader.source, (*reader.base, *path))
    node, definition = part.read(data)
    if definition is not None and node["type"] in CANNOT_NEST:
        name = node["type"]
        part.problem(f"{name} cannot stand inside {outer}: {CANNOT_NEST[name]}", (), f"use {name} by itself")
    if node.pop("interval", None) is not None:
        part.problem(f"an interval inside {outer}; all its schedulers share one", ("interval",), f"give it to {outer}")
    reader.problems += part.problems
    return node


def _optimizer_conflicts(name: str, params: Mapping[str, Any]) -> Iterator[_Conflict]:
    if name == "SGD" and params["nesterov"] and (params["momentum"] == 0 or params["dampening"] != 0):
        found = f"momentum {params['momentum']} and dampening {params['dampening']}"
        keys = ("nesterov", "momentum", "dampening")
        yield _Conflict(keys, f"nesterov does not go with {found}", "write for example momentum: 0.9 and dampening: 0")
    if params.get("fused") and params.get("foreach"):
        yield _Conflict(("fused", "foreach"), "fused and foreach exclude each other", "keep one of them")


def _scheduler_conflicts(
    name: str, params: Mapping[str, Any], written: Mapping[str, Any], interval: str
) -> Iterator[_Conflict]:
    if name == "OneCycleLR":
        yield from _cycle_conflicts(params, interval)
    if name == "SequentialLR":
        yield from _sequence_conflicts(params["schedulers"], params["milestones"])
    # torch's default, min, would lower the rate of a stage whose accuracy rises.
    if name == "ReduceLROnPlateau" and "mode" not in written and "loss" not in params["monitor"]:
        yield _Conflict(
            ("monitor",), f"whether {params['monitor']!r} should rise or fall is not said", "write mode: max or min"
        )


def _cycle_conflicts(params: Mapping[str, Any], interval: str) -> Iterator[_Conflict]:
    in_epochs = params["epochs"] is not None
    if in_epochs and params["total_steps"] is not None:
        yield _Conflict(
            ("total_steps",), "total_steps stands beside epochs and steps_per_epoch", "keep one or the other"
        )
    if in_epochs and interval == "epoch":
        what = "epochs and steps_per_epoch count steps, but the schedule moves on once per epoch"
        yield _Conflict(("epochs",), what, "write interval: step, or total_steps: auto instead of both")
    if params["three_phase"] and params["pct_start"] > 0.5:
        what = f"with three_phase the rise takes at most half of the cycle, not {params['pct_start']}"
        yield _Conflict(("pct_start",), what, "write pct_start: 0.5 or less")


def _sequence_conflicts(schedulers: list[Any], milestones: list[int]) -> Iterator[_Conflict]:
    if len(milestones) != len(schedulers) - 1:
        what = f"{len(schedulers)} schedulers need {len(schedulers) - 1} milestones, not {len(milestones)}"
        yield _Conflict(("milestones",), what, "a milestone is where the next scheduler takes over")
    if sorted(set(milestones)) != milestones:
        yield _Conflict(
            ("milestones",), f"milestones {milestones} do not rise", "write each larger than the one before"
        )


def _complete_cycle(params: dict[str, Any]) -> None:
    if params["epochs"] is None and params["steps_per_epoch"] is None:
        params["total_steps"] = params["total_steps"] or AUTO
    else:
        params["epochs"] = params["epochs"] or AUTO
        params["steps_per_epoch"] = params["steps_per_epoch"] or AUTO


def _list(node: Any, key: str) -> list[Any]:
    value = node.get(key) if isinstance(node, dict) else None
    return value if isinstance(value, list) else []


def _group_options(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of what a group may say differently: no defaults, for the optimizer's hold."""
    properties = {
        name: {keyword: value for keyword, value in each.items() if keyword != "default"}
        for name, each in definition["properties"].items()
        if name not in NOT_PER_GROUP
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _completed(params: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    filled = with_defaults(params, schema)
    return {name: _as_float(value, schema["properties"][name]) for name, value in filled.items()}


def _as_float(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return `value` with 1 as 1.0 where the schema wants a number: torch tells them apart."""
    if isinstance(value, list):
        items = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
        return [_as_float(each, item) for each, item in zip(value, items, strict=True)]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and "number" in schema.get("type", ()) else value


def _folded(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
