"""Axes of charts: from values to positions, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LOG_FROM = 50.0
_TINY = 1e-290


@dataclass(frozen=True)
class Axis:
    """A scale from `low`..`high` to pixels `start`..`end`, logarithmic if `log`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value in pixels."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def value_axis(values: Sequence[float], start: float, end: float, *, allow_log: bool = False) -> Axis:
    """Return an axis that holds all values; logarithmic where they are positive and far apart."""
    low, high = min(values), max(values)
    if allow_log and low > _TINY and high / low > _LOG_FROM:
        return _log_axis(low, high, start, end)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), _TINY):
        margin = abs(low) / 10 if abs(low) > _TINY else 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{place * step:.12g}") for place in range(first, last + 1))
    return Axis(first * step, last * step, start, end, ticks)


def epoch_axis(epochs: Sequence[int], start: float, end: float) -> Axis:
    """Return an axis over whole epochs; a single one stands in the middle."""
    low, high = min(epochs), max(epochs)
    if low == high:
        return Axis(low - 1, high + 1, start, end, (float(low),))
    step = max(1, round(_round_step((high - low) / 6)))
    inner = range(math.ceil(low / step) * step, high + 1, step)
    return Axis(low, high, start, end, tuple(float(epoch) for epoch in inner))


def _log_axis(low: float, high: float, start: float, end: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / 6))
    ticks = tuple(10.0**exponent for exponent in range(first, last + 1, stride))
    return Axis(10.0**first, 10.0**last, start, end, ticks, log=True)


def _round_step(step: float) -> float:
    """Return the round number (1, 2 or 5 times a power of ten) next above `step`."""
    magnitude = 10.0 ** math.floor(math.log10(step))
    return next(factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= step * (1 - 1e-9))
