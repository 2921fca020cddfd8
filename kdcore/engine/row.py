"""One row of a run's results: what a trained model reached on a split, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_LARGEST = 1e300


@dataclass(frozen=True)
class PerClass:
    """Accuracy class by class; `accuracy` is None where a class had no sample."""

    names: tuple[str, ...]
    accuracy: tuple[float | None, ...]
    count: tuple[int, ...]

    @classmethod
    def parse(cls, data: Any) -> PerClass | None:
        """Read the `per_class` entry of a row; None unless its three lists have one length."""
        if not isinstance(data, Mapping):
            return None
        lists = [data.get(key) for key in ("names", "accuracy", "count")]
        if not all(isinstance(each, list) for each in lists) or len({len(each or ()) for each in lists}) != 1:
            return None
        names, accuracy, count = (each or [] for each in lists)
        counts = tuple(int(number(each) or 0) for each in count)
        return cls(tuple(map(str, names)), tuple(map(number, accuracy)), counts) if names else None


@dataclass(frozen=True)
class Row:
    """What `model` reached after `stage`; values that are missing or not finite are left out."""

    stage: str
    title: str
    model: str
    split: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None
    latency_ms: float | None = None
    latency_batch: int | None = None
    per_class: PerClass | None = None
    sparsity: float | None = None

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Row:
        """Read one entry of `rows` in results.json; only what is well-formed is taken."""
        metrics = data.get("metrics")
        values = {str(key): number(value) for key, value in metrics.items()} if isinstance(metrics, Mapping) else {}
        parameters, batch = number(data.get("parameters")), number(data.get("latency_batch"))
        stage, model = (str(data.get(key) or "") for key in ("stage", "model"))
        return cls(
            stage=stage,
            title=str(data.get("title") or model or stage),
            model=model,
            split=str(data.get("split") or ""),
            metrics={key: value for key, value in values.items() if value is not None},
            parameters=None if parameters is None else int(parameters),
            latency_ms=number(data.get("latency_ms")),
            latency_batch=None if batch is None else int(batch),
            per_class=PerClass.parse(data.get("per_class")),
            sparsity=number(data.get("sparsity")),
        )

    @property
    def samples(self) -> int | None:
        """How many samples were classified, where that is known."""
        return sum(self.per_class.count) or None if self.per_class else None


def number(value: Any) -> float | None:
    """Return a finite number as float, anything else as None; beyond 1e300 differences would overflow."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= _LARGEST else None


def parse_rows(data: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Read the `rows` of results.json."""
    return [Row.parse(each) for each in data]


def labels(rows: Sequence[Row]) -> list[str]:
    """Name every row: by its title, and by model and split where titles alone would be equal."""
    titles = Counter(row.title for row in rows)
    splits = {row.split for row in rows}
    found = []
    for row in rows:
        label = row.title
        if titles[row.title] > 1 and row.model and row.model != row.title:
            label += f" / {row.model}"
        found.append(label + (f" ({row.split})" if len(splits) > 1 and row.split else ""))
    return found


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Return the metrics of all rows in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.metrics))
