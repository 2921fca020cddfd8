"""Measures: which of two values is better, and how people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MISSING = "-"
SPARSITY = "sparsity"

_LOWER = {"loss", "perplexity", "ppl", "error", "err", "mae", "mse", "rmse", "nll", "cer", "wer", "ece", "brier", "bpb"}
_LOWER_FIRST = {"latency", "parameters", "seconds", "bits"}
_SHARES = {"accuracy", "acc", "top", "precision", "recall", "f1", "iou", "miou", "sparsity", "auc", "auroc", "map"}
_PREFERRED = ("accuracy", "top_1", "loss", "perplexity")


class MetricName(NamedTuple):
    """A full metric name in parts: `val/student/accuracy`, `val/loss` or `val/losses/kd`.

    `sparsity` and `sparsity/student.block1.conv` belong to no split: they are of the weights.
    """

    split: str
    model: str = ""
    metric: str = ""
    term: str = ""
    layer: str = ""

    @classmethod
    def parse(cls, full: str) -> MetricName:
        """Split a full name; the total loss is the metric `loss` of no model."""
        split, _, rest = full.partition("/")
        if split == SPARSITY:
            return cls("", metric=SPARSITY, layer=rest)
        first, _, last = rest.partition("/")
        if first == "losses" and last:
            return cls(split, term=last)
        return cls(split, model=first, metric=last) if last else cls(split, metric=first)


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower())


def lower_is_better(name: str) -> bool:
    """Return whether less of the metric so named is better."""
    words = _words(name)
    return words[0] in _LOWER_FIRST or not _LOWER.isdisjoint(words)


def is_better(name: str, value: float, other: float) -> bool:
    """Return whether `value` of the metric `name` is strictly better than `other`."""
    return value < other if lower_is_better(name) else value > other


def is_share(name: str) -> bool:
    """Return whether the metric lies between 0 and 1 and is read as a percentage."""
    return not lower_is_better(name) and not _SHARES.isdisjoint(_words(name))


def headline_metric(names: Iterable[str], selected: str | None = None) -> str | None:
    """Return the metric that tells the story: an accuracy, else what the run selected by, else a loss."""
    known = sorted(set(names))
    wanted = ["accuracy", *(name for name in known if "accuracy" in _words(name)), selected, *_PREFERRED, *known]
    return next((name for name in wanted if name in known), None)


def best_of(name: str, values: Sequence[float | None]) -> list[bool]:
    """Mark the best of comparable values; where all are equal, or only one is there, nothing stands out."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return [False] * len(values)
    best = min(known) if lower_is_better(name) else max(known)
    return [value == best for value in values]


def show(name: str, value: float | None, digits: int = 2) -> str:
    """Write the value of a metric: shares as percentages, all else with four significant digits."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    if is_share(name) and 0 <= value <= 1:
        return f"{100 * value:.{digits}f} %"
    return show_number(value)


def show_number(value: float) -> str:
    """Write a number with four significant digits, exponents only where they shorten it."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 0.001 <= abs(value) < 1e6:
        decimals = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        return text.rstrip("0").rstrip(".") if abs(value) < 0.1 else text
    return f"{value:.4g}"


def show_count(value: int | None) -> str:
    """Write a count with thousands marked."""
    return MISSING if value is None else f"{value:,}"


def show_bytes(count: int) -> str:
    """Write how long a file is, in decimal units."""
    if count < 1000:
        return f"{count} bytes"
    exponent = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**exponent:.3g} {('kB', 'MB', 'GB', 'TB')[exponent - 1]}"


def show_duration(seconds: float) -> str:
    """Write how long something took, to about two digits that matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def show_ratio(value: float, reference: float) -> str:
    """Write how many times smaller `value` is than `reference`: `1/57`, or `63 %` where they are close."""
    ratio = reference / value
    if ratio >= 9.95:
        return f"1/{ratio:.0f}"
    return f"1/{ratio:.1f}" if ratio >= 1.95 else f"{100 / ratio:.0f} %"
