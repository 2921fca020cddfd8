"""Which rows of a run to compare: a model before and after, and the larger one it learns from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcore.engine import measure
from kdcore.engine.report.record import Record
from kdcore.engine.row import Row, metric_names

# Losses that compare a model with labels; a stage of nothing else trains without a teacher.
_TASK_LOSSES = {
    *("cross_entropy", "nll", "bce", "bce_with_logits", "mse", "l1", "smooth_l1", "huber", "gaussian_nll"),
    *("multi_margin", "multilabel_margin", "multilabel_soft_margin", "soft_margin", "hinge_embedding", "ctc"),
    *("poisson_nll", "norm_penalty", "triplet_margin", "margin_ranking"),
}


@dataclass(frozen=True)
class Comparison:
    """What to compare by `metric`.

    `after` is the row the run is about, `before` the same model from an earlier stage, `reference`
    the best larger model. `taught` says that `after` learned from a teacher and `before` did not.
    """

    metric: str
    after: Row
    before: Row | None = None
    reference: Row | None = None
    taught: bool = False
    pruned: bool = False

    def value(self, row: Row) -> float:
        """Return what `row` reached."""
        return row.metrics[self.metric]

    def is_better(self, row: Row, other: Row) -> bool:
        """Return whether `row` beats `other`."""
        return measure.is_better(self.metric, self.value(row), self.value(other))

    def colour(self, stage: str, model: str) -> int | None:
        """Return the colour that a stage's model has on the page: after, reference and before have their own."""
        rows = {0: self.after, 1: self.reference, 7: self.before}
        return next((at for at, row in rows.items() if row and (row.stage, row.model) == (stage, model)), None)

    @property
    def in_percent(self) -> bool:
        """Whether the values compared are shares between 0 and 1."""
        rows = [row for row in (self.before, self.after, self.reference) if row is not None]
        return measure.is_share(self.metric) and all(0 <= self.value(row) <= 1 for row in rows)

    @property
    def gap_closed(self) -> float | None:
        """Which share of the way from `before` to `reference` was made; None where there was no gap."""
        if self.before is None or self.reference is None or not self.is_better(self.reference, self.before):
            return None
        start = self.value(self.before)
        return (self.value(self.after) - start) / (self.value(self.reference) - start)


def compare(record: Record) -> Comparison | None:
    """Find the comparison that the rows of a run allow; None if no row holds a value."""
    rows = [row for row in record.rows if row.metrics]
    if not rows:
        return None
    split = "test" if any(row.split == "test" for row in rows) else rows[-1].split
    rows = [row for row in rows if row.split == split]
    selected = [stage.selected_by.rsplit("/", 1)[-1] for stage in record.stages if stage.selected_by]
    metric = measure.headline_metric(metric_names(rows), selected[-1] if selected else None)
    assert metric is not None  # every row left has one
    rows = [row for row in rows if metric in row.metrics]
    before, after = _pair(record, rows)
    return Comparison(
        metric,
        after,
        before,
        _reference(rows, after, metric),
        taught=before is not None and distils(record, after.stage) and not distils(record, before.stage),
        pruned=bool(record.stage_config(after.stage).get("pruning")),
    )


def distils(record: Record, stage: str) -> bool:
    """Return whether a stage learns from a model that it does not train, or by a loss made for that."""
    config = record.stage_config(stage)
    models, train, configured = record.config.get("models"), config.get("train"), config.get("losses")
    fixed = (
        set(map(str, models)) - set(map(str, train))
        if isinstance(models, Mapping) and isinstance(train, list)
        else set()
    )
    terms: dict[str, Any] = {}
    for told in record.stages:
        terms |= told.terms if told.name == stage else {}
    terms |= configured if isinstance(configured, Mapping) else {}
    # A term named `<model>.<key>` is a loss that the model itself returns.
    return any(_teaches(term, fixed) for name, term in terms.items() if "." not in name)


def _teaches(term: Any, fixed: set[str]) -> bool:
    kind, inputs = (term.get("type"), term.get("inputs")) if isinstance(term, Mapping) else (term, None)
    if isinstance(term, Mapping) and term.get("enabled") is False:
        return False
    foreign = kind is not None and str(kind).rsplit(":", 1)[-1] not in _TASK_LOSSES
    return foreign or not fixed.isdisjoint(_names(inputs))


def _names(inputs: Any) -> set[str]:
    """Return the first names of all addresses in `inputs`."""
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    if isinstance(inputs, list):
        return set().union(*map(_names, inputs))
    return {str(inputs).split(":")[0].split("@")[0].split("#")[0]}


def _pair(record: Record, rows: Sequence[Row]) -> tuple[Row | None, Row]:
    """Return a model's row and an earlier one of the same model: alone against distilled, if there is that."""
    pairs = [
        (first, second)
        for place, second in enumerate(rows)
        for first in rows[:place]
        if first.model == second.model and first.stage != second.stage
    ]
    if not pairs:
        sized = [row for row in rows if row.parameters is not None]
        return None, min(sized, key=lambda row: row.parameters or 0) if len(sized) == len(rows) else rows[-1]

    def rank(pair: tuple[Row, Row]) -> tuple[bool, int, int, int]:
        before, after = pair
        taught = distils(record, after.stage) and not distils(record, before.stage)
        return taught, -(after.parameters or 0), rows.index(after), rows.index(before)

    return max(pairs, key=rank)


def _reference(rows: Sequence[Row], after: Row, metric: str) -> Row | None:
    others = [row for row in rows if row.model != after.model]
    larger = [row for row in others if (row.parameters or math.inf) > (after.parameters or -math.inf)]
    sign = -1 if measure.lower_is_better(metric) else 1
    return max(larger, key=lambda row: sign * row.metrics[metric], default=None)
