"""The charts of a search: its front, its history, and how much each parameter matters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

from kdcore.engine.report.axis import epoch_axis, value_axis
from kdcore.engine.report.chart import BOTTOM, LEFT, RIGHT, TOP, WIDE, Chart, Curve, Dot, Tick, short
from kdcore.search.front import eligible, ranked
from kdcore.search.objectives import MEASURES, Constraint, Objective
from kdcore.search.pareto import find_pareto_front, hypervolume
from kdcore.search.record import Trial
from kdcore.search.words import describe_point, show_metric


def front_charts(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Chart]:
    """Lay out the first objective that is no cost against each of the others and each measure.

    The line joins the trials that none beats in these two metrics, which may be fewer than the whole front.
    """
    quality = next((each for each in objectives if not _is_measure(each.metric)), objectives[0])
    others = [each for each in objectives if each is not quality]
    named = {each.metric for each in objectives}
    known = [name for name in MEASURES if name not in named and all(name in trial.metrics for trial in trials)]
    # Two costs that say the same, such as parameters and bytes, need one chart.
    extra = [Objective(name, maximize=False) for name in known if name in ("parameters", "latency_ms")]
    charts = [_scatter(trials, quality, other) for other in [*others, *extra]]
    return [each for each in charts if each is not None]


def _is_measure(name: str) -> bool:
    return name.rpartition("/")[2] in MEASURES


def _scatter(trials: Sequence[Trial], quality: Objective, cost: Objective) -> Chart | None:
    points = [(trial, trial.metrics.get(cost.metric, math.nan), trial.metrics[quality.metric]) for trial in trials]
    points = [each for each in points if math.isfinite(each[1]) and math.isfinite(each[2])]
    if len(points) < 2:
        return None
    width, height = WIDE
    x = value_axis([each[1] for each in points], LEFT, width - RIGHT, allow_log=True)
    y = value_axis([each[2] for each in points], height - BOTTOM, TOP)

    def dot(trial: Trial, across: float, up: float) -> Dot:
        values = f"{show_metric(quality.metric, up)}, {cost.metric} {show_metric(cost.metric, across)}"
        return Dot(x.at(across), y.at(up), f"trial {trial.number}: {values}; {describe_point(trial.point)}")

    best = find_pareto_front([each[1:] for each in points], [cost.maximize, quality.maximize])
    line = sorted((points[index] for index in best), key=lambda each: each[1])
    path = "M" + "L".join(f"{x.at(across):g} {y.at(up):g}" for _, across, up in line)
    curves = (
        Curve("trials", "c7", "", tuple(dot(*each) for each in points)),
        Curve("front", "c0", path, tuple(dot(*each) for each in line)),
    )
    ticks = tuple(Tick(x.at(tick), short(show_metric(cost.metric, tick))) for tick in _thinned(x.ticks))
    up = tuple(Tick(y.at(tick), short(show_metric(quality.metric, tick))) for tick in y.ticks)
    title = f"{quality.metric} against {cost.metric}"
    return Chart(title, curves, ticks, up, log=x.log, by=cost.metric, width=width, height=height)


def history_chart(
    trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> Chart | None:
    """Lay out how good the best was after each trial; with several objectives how much the front dominated.

    Then the curve is the hypervolume in the box between the worst and the best values found, as a share of
    that of the final front.
    """
    good = {trial.number for trial in eligible(trials, objectives, constraints)}
    kept = [trial for trial in trials if trial.number in good]
    if len(kept) < 2:
        return None
    if len(objectives) == 1:
        metric, pick = objectives[0].metric, max if objectives[0].maximize else min
        values = list(accumulate((trial.metrics[metric] for trial in kept), pick))
        return _history(f"Best {metric} so far", kept, values, partial(show_metric, metric))
    volumes = _volumes(kept, objectives)
    if not volumes[-1]:
        return None
    shares = [volume / volumes[-1] for volume in volumes]
    title = "Hypervolume of the front, share of the final one"
    return _history(title, kept, shares, lambda share: f"{100 * share:.4g} %")


def _volumes(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[float]:
    rows = [[each.cost(trial.metrics) for each in objectives] for trial in trials]
    ends = [(min(column), max(column)) for column in zip(*rows, strict=True)]
    scaled = [
        [(value - low) / (high - low) if high > low else 0.0 for value, (low, high) in zip(row, ends, strict=True)]
        for row in rows
    ]
    # Beyond the worst, so that a point that is worst in one metric still counts.
    reference = [1.1] * len(objectives)
    found: list[float] = []
    front: list[list[float]] = []
    for row in scaled:
        front = [*front, row]
        front = [front[index] for index in find_pareto_front(front, maximize=False)]
        found.append(hypervolume(front, reference, maximize=False))
    return found


def _history(title: str, trials: Sequence[Trial], values: Sequence[float], show: Callable[[float], str]) -> Chart:
    width, height = WIDE
    x = epoch_axis([trial.number for trial in trials], LEFT, width - RIGHT)
    y = value_axis(values, height - BOTTOM, TOP)
    places = [(x.at(trial.number), y.at(value)) for trial, value in zip(trials, values, strict=True)]
    # What was best stays so until a trial is better: a staircase.
    path = f"M{places[0][0]:g} {places[0][1]:g}" + "".join(f"H{across:g}V{up:g}" for across, up in places[1:])
    dots = [
        Dot(*place, f"trial {trial.number}: {show(value)}")
        for trial, value, before, place in zip(trials, values, [None, *values], places, strict=False)
        if value != before
    ]
    across = tuple(Tick(x.at(tick), f"{tick:.0f}") for tick in x.ticks)
    up = tuple(Tick(y.at(tick), short(show(tick))) for tick in y.ticks)
    curve = Curve("so far", "c0", path, tuple(dots))
    return Chart(title, (curve,), across, up, by="trial", width=width, height=height)


def best_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """Return the best trial by the weighted mean of its objectives."""
    return next(iter(ranked(trials, objectives)), None)


def _thinned(ticks: Sequence[float]) -> Sequence[float]:
    return ticks if len(ticks) <= 6 else ticks[:: math.ceil(len(ticks) / 6)]
