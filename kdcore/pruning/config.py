"""One pruning group as typed data, and what is wrong with it that needs neither model nor torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from kdcore.errors import ConfigError, Place, Problem, suggestion
from kdcore.pruning.pattern import Pattern, PatternError

SCHEDULES = ("one_shot", "linear", "cosine", "cubic", "exponential", "locked")
LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
AUTO = "auto"
_WEIGHTS = Pattern("1x1", 1, 1)


class Mistake(NamedTuple):
    """What is wrong with a group, at which key (`("schedule", "end")`), and what repairs it."""

    path: tuple[str, ...]
    message: str
    repair: str = ""


@dataclass(frozen=True)
class ScheduleConfig:
    """When masks are made and how sparse they are.

    Arguments:
        type: `one_shot`, `linear`, `cosine`, `cubic`, `exponential` or `locked`.
        start: the step (or epoch) of the first masks, counted from 0.
        end: the step (or epoch) after which there are no new ones; `auto` is three quarters of all steps.
        every: steps (or epochs) from one to the next; None is a tenth of the window, at most 100 steps, or one epoch.
        unit: `step` or `epoch`.
    """

    type: str = "cubic"
    start: int = 0
    end: int | str = AUTO
    every: int | None = None
    unit: str = "step"


@dataclass(frozen=True)
class PruningGroup:
    """One mapping of `pruning:`; the keys are those of the config.

    Arguments:
        criterion: the name of a pruning criterion, or in one's own loop the object itself.
        params: the criterion's.
        place: of the group in the config; `places` those of its keys, `schedule.end` and the like among them.
        title: the name of a criterion that is given as an object, for messages.
    """

    model: str | None = None
    criterion: Any = "magnitude"
    params: Mapping[str, Any] = field(default_factory=dict)
    pattern: Pattern = _WEIGHTS
    reduce: str = "mean"
    target_sparsity: float = 0.0
    scope: str = "global"
    min_sparsity: float = 0.0
    max_sparsity: float = 0.98
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: tuple[str, ...] = LAYERS
    prune_classifier: bool = False
    schedule: ScheduleConfig = ScheduleConfig()
    masks: str = "recomputed"
    group_lasso: float = 0.0
    dtype: str = "float32"
    place: Place = Place()
    places: Mapping[str, Place] = field(default_factory=dict)
    title: str = ""

    @property
    def by(self) -> str:
        """How messages call the criterion: its name, or the class of an object that has none."""
        return self.title or (self.criterion if isinstance(self.criterion, str) else type(self.criterion).__name__)

    @classmethod
    def from_mapping(
        cls, written: Mapping[str, Any], place: Place = Place(), places: Mapping[str, Place] | None = None
    ) -> Self:
        """Make a group from the keys of a config; raises ConfigError naming every mistake."""
        places = places or {}
        mistakes = group_mistakes(written)
        if mistakes:
            raise ConfigError(
                Problem(each.message, places.get(".".join(each.path)) or _at(place, each.path), each.repair)
                for each in mistakes
            )
        given = dict(written)
        criterion = given.pop("criterion", cls.criterion)
        if isinstance(criterion, Mapping):
            given["params"] = dict(criterion.get("params") or {})
            criterion = criterion["type"]
        schedule = given.pop("schedule", {})
        given["schedule"] = ScheduleConfig(**({"type": schedule} if isinstance(schedule, str) else schedule))
        if "pattern" in given:
            given["pattern"] = Pattern.parse(given["pattern"])
        for key in ("include", "exclude", "layers"):
            if key in given:
                given[key] = (given[key],) if isinstance(given[key], str) else tuple(given[key])
        return cls(criterion=criterion, place=place, places=places, **given)

    @property
    def most(self) -> float:
        """The highest sparsity that a layer may have."""
        return min(self.max_sparsity, self.pattern.most)

    @property
    def locked(self) -> bool:
        """Whether the zeros that are there stay, and no others are made."""
        return self.schedule.type == "locked"

    def at(self, *path: str) -> Place:
        """Return where a key stands."""
        return self.places.get(".".join(path)) or _at(self.place, path)


def group_mistakes(written: Mapping[str, Any]) -> list[Mistake]:
    """Return everything that is wrong with a group as written, as far as neither model nor steps tell."""
    found = list(_unknown_keys(written))
    found += [each for key, check in _CHECKS.items() if key in written for each in check(key, written[key])]
    if not found:
        found += _together(written)
    return found


def _at(place: Place, path: tuple[str, ...]) -> Place:
    return Place(".".join(filter(None, (place.path, *path))), place.file, place.line, place.column)


def _unknown_keys(written: Mapping[str, Any]) -> Iterator[Mistake]:
    for key in written:
        if key not in _CHECKS:
            yield Mistake((str(key),), f"unknown key {key!r}", suggestion(str(key), _CHECKS, noun="keys"))


def _together(written: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield what single keys do not show."""
    schedule = written.get("schedule", {})
    schedule = {"type": schedule} if isinstance(schedule, str) else schedule
    kind = schedule.get("type", ScheduleConfig.type)
    yield from _window(kind, schedule)
    if kind == "locked":
        return
    if "target_sparsity" not in written:
        yield Mistake(("target_sparsity",), "missing key 'target_sparsity'", "say how sparse the layers become: 0.8")
        return
    target, least = written["target_sparsity"], written.get("min_sparsity", PruningGroup.min_sparsity)
    most = written.get("max_sparsity", PruningGroup.max_sparsity)
    pattern = Pattern.parse(written.get("pattern", PruningGroup.pattern))
    if pattern.within_groups and target > pattern.most:
        yield Mistake(
            ("target_sparsity",),
            f"{pattern} prunes {pattern.pruned} of every {pattern.group} weights, so at most {pattern.most:g} of a "
            f"layer; found target_sparsity {target:g}",
            f"set target_sparsity to {pattern.most:g} or less",
        )
    elif target > most:
        yield Mistake(
            ("target_sparsity",),
            f"target_sparsity {target:g} cannot be reached with max_sparsity {most:g} per layer; at most {most:g} can",
            "lower target_sparsity or raise max_sparsity",
        )
    if least > most:
        yield Mistake(("min_sparsity",), f"min_sparsity {least:g} is above max_sparsity {most:g}", "exchange them")
    elif least > target:
        yield Mistake(
            ("min_sparsity",),
            f"min_sparsity {least:g} of every layer is above target_sparsity {target:g} of all",
            f"set min_sparsity to {target:g} or less, or raise target_sparsity",
        )


def _window(kind: str, schedule: Mapping[str, Any]) -> Iterator[Mistake]:
    start, end = schedule.get("start", 0), schedule.get("end", AUTO)
    if kind in ("one_shot", "locked"):
        for key in ("end", "every"):
            if schedule.get(key) not in (None, AUTO):
                yield Mistake(("schedule", key), f"a {kind} schedule has a start only, no {key!r}", f"remove {key!r}")
        return
    if end != AUTO and end < start:
        yield Mistake(("schedule", "end"), f"the schedule ends at {end}, before its start at {start}", "exchange them")
    elif end != AUTO and end - start < (schedule.get("every") or 1):
        yield Mistake(
            ("schedule", "end"),
            f"from {start} to {end} there is no second pruning with every: {schedule.get('every') or 1}, and the "
            f"first of a {kind} schedule removes nothing",
            "raise end, lower every, or use type: one_shot",
        )


Found = Iterator[Mistake]


def _number(low: float, high: float, *, open_end: bool = False) -> Callable[[str, Any], Found]:
    def check(key: str, value: Any) -> Found:
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not right or not (low <= value <= high) or (open_end and value == high):
            allowed = f"at least {low:g}" if high == math.inf else f"from {low:g} to {'below ' * open_end}{high:g}"
            yield Mistake((key,), f"{key} must be a number {allowed}, found {value!r}")

    return check


def _one_of(*options: str) -> Callable[[str, Any], Found]:
    def check(key: str, value: Any) -> Found:
        if value not in options:
            yield Mistake((key,), f"{key} must be {_listed(options)}, found {value!r}", suggestion(str(value), options))

    return check


def _names(key: str, value: Any) -> Found:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(each, str) for each in items):
        yield Mistake((key,), f"{key} must be a list of names, found {value!r}")
    elif key == "layers" and not items:
        yield Mistake((key,), "layers must not be empty", "leave it out for Linear and Conv1d to Conv3d")


def _flag(key: str, value: Any) -> Found:
    if not isinstance(value, bool):
        yield Mistake((key,), f"{key} must be true or false, found {value!r}")


def _pattern(key: str, value: Any) -> Found:
    try:
        Pattern.parse(value)
    except PatternError as error:
        yield Mistake((key,), str(error))


def _criterion(key: str, value: Any) -> Found:
    if isinstance(value, Mapping):
        for name in value:
            if name not in ("type", "params"):
                yield Mistake((key, name), f"unknown key {name!r}", suggestion(name, ("type", "params")))
        if not isinstance(value.get("type"), str):
            yield Mistake((key,), "missing key 'type'", "name a pruning criterion: type: magnitude")
    elif not isinstance(value, str) and not callable(getattr(value, "score", None)):
        yield Mistake((key,), f"criterion must be the name of a pruning criterion, found {value!r}")


def _schedule(key: str, value: Any) -> Found:
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        yield Mistake((key,), f"schedule must be a mapping or the name of a schedule, found {value!r}")
        return
    known = [each.name for each in fields(ScheduleConfig)]
    for name, item in value.items():
        if name not in known:
            yield Mistake((key, str(name)), f"unknown key {name!r}", suggestion(str(name), known, noun="keys"))
        elif name == "type" and item not in SCHEDULES:
            message = f"unknown schedule {item!r}; it must be {_listed(SCHEDULES)}"
            yield Mistake((key, name), message, suggestion(str(item), SCHEDULES, noun="schedules"))
        elif name == "unit" and item not in ("step", "epoch"):
            yield Mistake((key, name), f"unit must be step or epoch, found {item!r}")
        elif name in ("start", "end", "every"):
            least = 1 if name == "every" else 0
            whole = isinstance(item, int) and not isinstance(item, bool) and item >= least
            if not whole and not (name == "end" and item == AUTO) and not (name == "every" and item is None):
                also = " or auto" if name == "end" else ""
                yield Mistake((key, name), f"{name} must be a whole number of at least {least}{also}, found {item!r}")


def _model(key: str, value: Any) -> Found:
    if value is not None and not isinstance(value, str):
        yield Mistake((key,), f"model must be the name of a model, found {value!r}")


def _listed(options: Sequence[str]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


_CHECKS: dict[str, Callable[[str, Any], Found]] = {
    "model": _model,
    "criterion": _criterion,
    "pattern": _pattern,
    "reduce": _one_of("mean", "sum", "max"),
    "target_sparsity": _number(0, 1, open_end=True),
    "scope": _one_of("global", "local"),
    "min_sparsity": _number(0, 1, open_end=True),
    "max_sparsity": _number(0, 1),
    "include": _names,
    "exclude": _names,
    "layers": _names,
    "prune_classifier": _flag,
    "schedule": _schedule,
    "masks": _one_of("recomputed", "frozen"),
    "group_lasso": _number(0, math.inf),
    "dtype": _one_of("float32", "weights"),
}
