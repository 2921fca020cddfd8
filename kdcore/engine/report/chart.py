"""Line charts over epochs, laid out here and drawn as inline SVG by the template.

They are drawn by hand rather than by a plotting library so that lines and text take their colours
from the page: one drawing reads well in the light, in the dark and on paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdcore.engine.report.axis import Axis, epoch_axis, value_axis
from kdcore.engine.report.record import Points

SIZE = (360, 210)
WIDE = (520, 290)
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 26
COLOURS = 8
_DOTS_UP_TO = 60


@dataclass(frozen=True)
class Series:
    """One curve; those of training are drawn faint, so that held-out data stands out."""

    label: str
    points: Points
    colour: int
    faint: bool = False

    @property
    def style(self) -> str:
        """The CSS classes of the curve and of its entry in the legend."""
        return f"c{self.colour % COLOURS}" + (" faint" if self.faint else "")


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    position: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A value of a curve with what to say about it."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Curve:
    """A series laid out: a path that breaks where values are missing, and its dots."""

    label: str
    style: str
    path: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    mark: Tick | None = None
    log: bool = False
    by: str = " by epoch"
    width: int = SIZE[0]
    height: int = SIZE[1]

    @property
    def left(self) -> int:
        """Where the plot begins."""
        return LEFT

    @property
    def right(self) -> int:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def top(self) -> int:
        """Where the plot's upper edge is."""
        return TOP

    @property
    def bottom(self) -> int:
        """Where the plot's lower edge is."""
        return self.height - BOTTOM


def line_chart(
    title: str,
    series: Sequence[Series],
    show: Callable[[float], str],
    *,
    allow_log: bool = False,
    mark: int | None = None,
    size: tuple[int, int] = SIZE,
) -> Chart | None:
    """Lay out `series`; None if no value is finite.

    Arguments:
        show: writes a value for ticks and dots.
        mark: an epoch to mark, the best one for example.
        size: width and height, in units that are about a pixel.
    """
    width, height = size
    values = [value for each in series for _, value in each.points if value is not None]
    if not values:
        return None
    epochs = [epoch for each in series for epoch, _ in each.points]
    x = epoch_axis(epochs, LEFT, width - RIGHT)
    y = value_axis(values, height - BOTTOM, TOP, allow_log=allow_log)
    return Chart(
        title,
        tuple(_curve(each, x, y, show) for each in series),
        tuple(Tick(x.at(tick), f"{tick:.0f}") for tick in x.ticks),
        tuple(Tick(y.at(tick), short(show(tick))) for tick in y.ticks),
        Tick(x.at(mark), f"best: {mark}") if mark is not None and min(epochs) <= mark <= max(epochs) else None,
        y.log,
        width=width,
        height=height,
    )


def path_chart(
    title: str,
    series: Sequence[Series],
    at: Mapping[int, float],
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
) -> Chart | None:
    """Lay out `series` against a value that each epoch has, in the order of epochs; None if no value is finite.

    Arguments:
        at: the value of each epoch of the series.
        show_x: writes it.
        show_y: writes a value of the series.
    """
    width, height = SIZE
    values = [value for each in series for _, value in each.points if value is not None]
    if not values:
        return None
    x = value_axis(list(at.values()), LEFT, width - RIGHT)
    y = value_axis(values, height - BOTTOM, TOP)
    return Chart(
        title,
        tuple(_curve(each, x, y, show_y, at, show_x) for each in series),
        tuple(Tick(x.at(tick), short(show_x(tick))) for tick in x.ticks),
        tuple(Tick(y.at(tick), short(show_y(tick))) for tick in y.ticks),
        by="",
    )


def _curve(
    series: Series,
    x: Axis,
    y: Axis,
    show: Callable[[float], str],
    at: Mapping[int, float] | None = None,
    show_x: Callable[[float], str] = str,
) -> Curve:
    pieces: list[str] = []
    dots: list[Dot] = []
    pen = "M"
    for epoch, value in series.points:
        if value is None:
            pen = "M"
            continue
        across = epoch if at is None else at[epoch]
        where = f"epoch {epoch}" + (f", {show_x(across)}" if at is not None else "")
        pieces.append(f"{pen}{x.at(across):g} {y.at(value):g}")
        dots.append(Dot(x.at(across), y.at(value), f"{series.label}, {where}: {show(value)}"))
        pen = "L"
    return Curve(series.label, series.style, "".join(pieces), tuple(dots) if len(dots) <= _DOTS_UP_TO else ())


def short(text: str) -> str:
    """Drop zeros that a tick does not need: `90.00 %` reads `90 %`."""
    number, space, unit = text.partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number and "e" not in number else number) + space + unit
