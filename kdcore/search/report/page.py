"""The page of a search's report: everything it shows, put into the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kdcore.engine import measure
from kdcore.engine.report.page import highlight, template
from kdcore.search.base import Base
from kdcore.search.folder import SearchFolder
from kdcore.search.front import eligible, front_of
from kdcore.search.importance import importance
from kdcore.search.objectives import Objective
from kdcore.search.record import State, Trial
from kdcore.search.report.charts import best_of, front_charts, history_chart
from kdcore.search.space import Space
from kdcore.search.table import cells
from kdcore.search.words import describe_point, short_names, show_metric


class Tile(NamedTuple):
    """A number that stands out, and what it says."""

    label: str
    value: str


@dataclass(frozen=True)
class Bar:
    """How much a parameter matters."""

    name: str
    share: float


@dataclass(frozen=True)
class Importance:
    """How much each parameter matters for one objective."""

    metric: str
    bars: list[Bar]


def render(folder: SearchFolder, base: Base) -> str:
    """Return the report as HTML; everything that came from the search is escaped by the template."""
    search = base.search
    trials, finals = folder.trials(), folder.final_trials()
    good = eligible(trials, search.objectives, search.constraints)
    front = front_of(trials, search.objectives, search.constraints)
    best = best_of(front, search.objectives)
    packages = ("kdcore.search.report", "kdcore.engine.report")
    return template("search.html.j2", *packages).render(
        name=base.name,
        headline=_headline(best, search.objectives),
        tiles=_tiles(trials, front, search.objectives),
        warnings=_warnings(trials),
        fronts=front_charts(good, search.objectives),
        history=history_chart(trials, search.objectives, search.constraints),
        importances=_importances(good, search.space, search.objectives),
        front=cells(front, [], search.space, search.objectives),
        finals=cells(finals, [], search.space, search.objectives, tested=True),
        trials=cells(trials, front, search.space, search.objectives),
        config=highlight(folder.config.read_text(encoding="utf-8")),
        folder=str(folder.path),
        several=len(search.objectives) > 1,
    )


def _headline(best: Trial | None, objectives: Sequence[Objective]) -> str:
    if best is None:
        return "No trial has come to its end yet."
    values = ", ".join(f"{each.metric} {show_metric(each.metric, best.metrics[each.metric])}" for each in objectives)
    return f"Trial {best.number} is the best: {values}, with {describe_point(best.point)}."


def _tiles(trials: Sequence[Trial], front: Sequence[Trial], objectives: Sequence[Objective]) -> list[Tile]:
    counts = {state: sum(trial.state is state for trial in trials) for state in State}
    found = [Tile("trials ran to their end", str(counts[State.COMPLETE]))]
    names = {State.STOPPED: "stopped early", State.FAILED: "failed", State.INFEASIBLE: "not trained: infeasible"}
    found += [Tile(told, str(counts[state])) for state, told in names.items() if counts[state]]
    if len(objectives) > 1:
        found.append(Tile("in the Pareto front", str(len(front))))
    seconds = sum(trial.seconds or 0.0 for trial in trials)
    return [*found, Tile("in all trials together", measure.show_duration(seconds))]


def _warnings(trials: Sequence[Trial]) -> list[str]:
    failed = [trial for trial in trials if trial.state is State.FAILED]
    shown = [f"Trial {trial.number} failed: {trial.reason}" for trial in failed[:5]]
    return shown + ([f"{len(failed) - 5} more trials failed; the table has them all."] if len(failed) > 5 else [])


def _importances(trials: Sequence[Trial], space: Space, objectives: Sequence[Objective]) -> list[Importance]:
    names = short_names(parameter.path for parameter in space)
    found = []
    for objective in objectives:
        shares = importance(trials, space, objective)
        if shares:
            found.append(Importance(objective.metric, [Bar(names[path], share) for path, share in shares.items()]))
    return found
