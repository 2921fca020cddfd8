"""Which charts a run gets: the stages against each other, and each stage by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count

from kdcore.engine import measure
from kdcore.engine.measure import MetricName
from kdcore.engine.report.chart import WIDE, Chart, Series, line_chart
from kdcore.engine.report.comparison import Comparison
from kdcore.engine.report.record import Points, Record, Stage
from kdcore.engine.report.sparsity import LayerBar, layer_bars, sparsity_charts
from kdcore.engine.row import number


@dataclass(frozen=True)
class StageCharts:
    """A stage's charts, with the line that stands above them."""

    title: str
    told: str
    charts: tuple[Chart, ...]
    layers: tuple[LayerBar, ...] = ()


def stage_charts(record: Record) -> list[StageCharts]:
    """Lay out every stage's metrics, losses by term and learning rate."""
    return [StageCharts(stage.title, _told(stage), tuple(_charts(stage)), layer_bars(stage)) for stage in record.stages]


def overview_chart(record: Record, found: Comparison | None) -> Chart | None:
    """Lay out the held-out metric that tells most, all stages in one chart; None for fewer than two curves.

    The rows of the comparison `found` keep the colours that they have elsewhere on the page.
    """
    curves = [(stage, name, points) for stage in record.stages for name, points in _held_out(stage).items()]
    headline = measure.headline_metric(name.metric for _, name, _ in curves)
    chosen = [(stage, name, points) for stage, name, points in curves if name.metric == headline]
    if headline is None or len(chosen) < 2:
        return None
    others = count(2 if found else 0)
    series = []
    for stage, name, points in chosen:
        several = len({other.model for other in _held_out(stage)}) > 1
        colour = found.colour(stage.name, name.model) if found else None
        label = f"{stage.title}, {name.model}" if several else stage.title
        series.append(Series(label, points, next(others) if colour is None else colour))
    return line_chart(
        f"Held-out {_words(headline)}, stage by stage", series, partial(measure.show, headline), size=WIDE
    )


def _held_out(stage: Stage) -> dict[MetricName, Points]:
    """Return the curves of models on data that they were not trained on."""
    named = {MetricName.parse(full): points for full, points in stage.curves().items()}
    return {name: points for name, points in named.items() if name.model and name.split != "train"}


def warnings(record: Record) -> list[str]:
    """Say what curves reveal: values that are not finite, stages cut short or still improving."""
    found = []
    for stage in record.stages:
        for name, points in stage.curves().items():
            broken = [epoch for epoch, value in points if value is None]
            if broken:
                where = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
                found.append(f"Stage {stage.name}: {name} was not a finite number in epoch {where}.")
        if not stage.lines:
            found.append(f"Stage {stage.name} has no epoch on record.")
        elif record.status != "completed" and stage.last_epoch < stage.epochs and stage is record.stages[-1]:
            found.append(f"Stage {stage.name} stopped after epoch {stage.last_epoch} of {stage.epochs}.")
        if stage.best_epoch is not None and stage.best_epoch == stage.epochs > 1:
            found.append(f"Stage {stage.name} was still improving in its last epoch: more epochs may help.")
    return found


def _told(stage: Stage) -> str:
    epochs = len(stage.lines)
    parts = [f"stage {stage.name}", f"{epochs} epoch{'s' * (epochs != 1)}"]
    if stage.epochs and epochs != stage.epochs:
        parts[-1] += f" of {stage.epochs}"
    if stage.seconds:
        parts.append(measure.show_duration(stage.seconds))
    if stage.best_epoch is not None:
        by = f" by {stage.selected_by}" if stage.selected_by else ""
        parts.append(f"best epoch {stage.best_epoch}{by}")
    for name, term in stage.terms.items():
        weight = number(term.get("weight"))
        parts.append(f"{name}: {term.get('type', '?')}" + (f" × {weight:g}" if weight is not None else ""))
    return " · ".join(parts)


def _charts(stage: Stage) -> list[Chart]:
    curves = {MetricName.parse(full): points for full, points in stage.curves().items()}
    metrics = list(dict.fromkeys(name.metric for name in curves if name.model))
    headline = measure.headline_metric(metrics)
    metrics.sort(key=lambda metric: metric != headline)
    charts = [_metric_chart(metric, curves, stage.best_epoch) for metric in metrics]
    charts[1:1] = [_loss_chart(split, curves) for split in dict.fromkeys(name.split for name in curves)]
    rates = [Series(f"group {place + 1}", rate, place) for place, rate in enumerate(stage.learning_rates())]
    charts += sparsity_charts(stage)
    charts.append(line_chart("Learning rate", rates, measure.show_number, allow_log=True))
    return [chart for chart in charts if chart is not None]


def _metric_chart(metric: str, curves: Mapping[MetricName, Points], best: int | None) -> Chart | None:
    told = [name for name in curves if name.model and name.metric == metric]
    models = list(dict.fromkeys(name.model for name in told))
    series = [
        Series(
            f"{name.split}, {name.model}" if len(models) > 1 else name.split,
            curves[name],
            models.index(name.model),
            faint=name.split == "train",
        )
        for name in told
    ]
    return line_chart(_words(metric).capitalize(), series, partial(measure.show, metric), mark=best)


def _loss_chart(split: str, curves: Mapping[MetricName, Points]) -> Chart | None:
    terms = [name for name in curves if name.split == split and name.term]
    total = [
        Series("total, weighted" if terms else "total", curves[name], 0)
        for name in curves
        if name == MetricName(split, metric="loss")
    ]
    if len(terms) == 1 and total and total[0].points == curves[terms[0]]:
        total = []  # it would hide the only term
    series = [*total, *(Series(name.term, curves[name], place) for place, name in enumerate(terms, start=1))]
    title = f"Losses by term, {split}" if terms else f"Loss, {split}"
    return line_chart(title, series, measure.show_number, allow_log=True)


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("/", " ")
