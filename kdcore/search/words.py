"""How points, metrics and trials are written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdcore.engine import measure
from kdcore.engine.measure import MetricName
from kdcore.engine.progress.tracked import clean
from kdcore.search.job import Outcome
from kdcore.search.objectives import MEASURES, Constraint, Objective
from kdcore.search.record import State, Trial
from kdcore.search.values import shown

_LONGEST = 24


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the shortest ends of config paths that tell them apart: `width` for `models.student.params.width`."""
    names = list(paths)
    found = {}
    for path in names:
        steps = path.split(".")
        for length in range(1, len(steps) + 1):
            end = ".".join(steps[-length:])
            if sum(other == end or other.endswith("." + end) for other in names) == 1 or length == len(steps):
                found[path] = end
                break
    return found


def show_metric(name: str, value: float) -> str:
    """Write a value as its metric is read."""
    leaf = name.rpartition("/")[2]
    if not math.isfinite(value):
        return str(value)
    if leaf == "bytes":
        return measure.show_bytes(int(value))
    if leaf in ("parameters", "flops"):
        return measure.show_count(int(value))
    if leaf == MEASURES[-1]:
        return measure.show("latency", value)
    return measure.show(MetricName.parse(name).metric or "loss", value)


def show_value(value: Any) -> str:
    """Write a value of a parameter."""
    text = f"{value:.4g}" if isinstance(value, float) else shown(value, _LONGEST)
    return clean(text.strip('"') if isinstance(value, str) else text)


def describe_metrics(trial: Trial, objectives: Sequence[Objective]) -> str:
    """Write the objectives of a trial in a line."""
    parts = [
        f"{each.metric} {show_metric(each.metric, trial.metrics[each.metric])}"
        for each in objectives
        if each.metric in trial.metrics
    ]
    return ", ".join(map(clean, parts))


def describe_point(point: Mapping[str, Any]) -> str:
    """Write a point in a line, its paths by their ends."""
    names = short_names(point)
    return " ".join(f"{clean(names[path])}={show_value(value)}" for path, value in point.items())


def reason_of(state: State, outcome: Outcome, constraints: Iterable[Constraint]) -> str | None:
    """Return why the search did not train a point, or not to its end; None where it did."""
    metrics = outcome.metrics
    if state is State.INFEASIBLE:
        broken = [each for each in constraints if each.metric in metrics and not each.holds(metrics)]
        return ", ".join(
            f"{each.metric} is {metrics[each.metric]:g}, not {each.sign} {each.bound:g}" for each in broken
        )
    if state is State.STOPPED:
        return f"behind the other trials after {outcome.epochs} epoch" + "s" * (outcome.epochs != 1)
    return None
