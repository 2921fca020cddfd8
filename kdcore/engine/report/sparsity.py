"""How sparse a stage's layers became: over time, layer by layer, and at what cost in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from kdcore.engine import measure
from kdcore.engine.measure import SPARSITY, MetricName
from kdcore.engine.report.chart import Chart, Series, line_chart, path_chart
from kdcore.engine.report.record import Points, Stage

# As many curves as have colours of their own: all layers together, and seven of them.
_CURVES = 7
_BARS = 40

_T = TypeVar("_T")


@dataclass(frozen=True)
class LayerBar:
    """A layer's sparsity in the end, in percent."""

    name: str
    percent: float


def sparsity_charts(stage: Stage) -> list[Chart | None]:
    """Lay out sparsity by epoch, and held-out accuracy (or what stands for it) by sparsity."""
    curves = stage.curves()
    if SPARSITY not in curves:
        return []
    return [_over_time(stage, curves), _against(curves)]


def layer_bars(stage: Stage) -> tuple[LayerBar, ...]:
    """Return how sparse each layer was after the last epoch; of many layers the ones that stand out."""
    bars = [
        LayerBar(_layer(full), 100 * points[-1][1])
        for full, points in stage.curves().items()
        if _layer(full) and points[-1][1] is not None
    ]
    return tuple(bars if len(bars) <= _BARS else _extremes(bars, _BARS, [bar.percent for bar in bars]))


def _over_time(stage: Stage, curves: dict[str, Points]) -> Chart | None:
    layers = [(_layer(full), points) for full, points in curves.items() if _layer(full)]
    if len(layers) > _CURVES:
        layers = _extremes(layers, _CURVES - 1, [points[-1][1] or 0.0 for _, points in layers])
    series = [Series("all pruned layers", curves[SPARSITY], 0)]
    if len(layers) > 1:
        series += [Series(name, points, place, faint=True) for place, (name, points) in enumerate(layers, start=1)]
    return line_chart("Sparsity", series, partial(measure.show, SPARSITY), mark=stage.best_epoch)


def _against(curves: dict[str, Points]) -> Chart | None:
    named = {MetricName.parse(full): points for full, points in curves.items()}
    held_out = {name: points for name, points in named.items() if name.model and name.split != "train"}
    headline = measure.headline_metric(name.metric for name in held_out)
    if headline is None:
        return None
    sparsity = {epoch: share for epoch, share in curves[SPARSITY] if share is not None}
    series = [
        Series(f"{name.split}, {name.model}", [(epoch, value) for epoch, value in points if epoch in sparsity], place)
        for place, (name, points) in enumerate(held_out.items())
        if name.metric == headline
    ]
    words = headline.replace("_", " ").capitalize()
    return path_chart(
        f"{words} against sparsity", series, sparsity, partial(measure.show, SPARSITY), partial(measure.show, headline)
    )


def _layer(full: str) -> str:
    return MetricName.parse(full).layer


def _extremes(items: Sequence[_T], count: int, values: Sequence[float]) -> list[_T]:
    """Return the items with the lowest and with the highest values, in their own order."""
    ranked = sorted(range(len(items)), key=lambda place: values[place])
    kept = {*ranked[: count // 2], *ranked[len(ranked) - (count - count // 2) :]}
    return [item for place, item in enumerate(items) if place in kept]
