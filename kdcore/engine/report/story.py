"""The story of a run in one sentence, the figures behind it, and what speaks against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kdcore.engine import measure
from kdcore.engine.report.comparison import Comparison, compare
from kdcore.engine.report.record import Record
from kdcore.engine.row import Row

_ENDINGS = {
    "failed": " Then the run failed.",
    "interrupted": " Then the run was interrupted.",
    "running": " The run is still going, or was killed.",
}


class Tile(NamedTuple):
    """One figure worth a glance."""

    value: str
    label: str


@dataclass(frozen=True)
class Story:
    """A headline, its figures, remarks that qualify it, and the comparison they rest on."""

    headline: str
    tiles: Sequence[Tile] = ()
    remarks: Sequence[str] = ()
    comparison: Comparison | None = None


def tell(record: Record) -> Story:
    """Put what a run showed into words; neutral where its rows allow no comparison."""
    found = compare(record)
    if found is None:
        return Story(_without_rows(record))
    headline = _alone(found) if found.before is None else _compared(found, found.before)
    if record.status != "completed":
        headline += _ENDINGS.get(record.status, f" The run is {record.status}.")
    return Story(headline, _tiles(found), _remarks(found), found)


def _the(model: str) -> str:
    return f"the {model}" if model in ("student", "teacher") else model or "the model"


def _measure(found: Comparison) -> str:
    return f"{found.after.split} {found.metric}".strip().replace("_", " ")


def _value(found: Comparison, row: Row) -> str:
    """Write the row's value, with one decimal unless two of the rows would then read the same."""
    shown = {found.value(each) for each in (found.before, found.after, found.reference) if each is not None}
    short = {measure.show(found.metric, value, 1) for value in shown}
    return measure.show(found.metric, found.value(row), 1 if len(short) == len(shown) else 2)


def _compared(found: Comparison, before: Row) -> str:
    after = found.after
    whose = f"{_the(after.model)}'s {_measure(found)}"
    who = f"Stage {after.stage}, after {before.stage},"
    if found.taught:
        who = "Pruning while distilling" if found.pruned else "Distillation"
    old, new = found.value(before), found.value(after)
    if old == new:
        return f"{who} left {whose} at {_value(found, after)}{_goal(found)}."
    moved = f"{'raised' if new > old else 'lowered'} {whose} from {_value(found, before)} to {_value(found, after)}"
    if found.is_better(after, before):
        return f"{who} {moved}{_progress(found)}{_cost(found)}."
    return f"{who} did not help: it {moved}{_goal(found)}."


def _progress(found: Comparison) -> str:
    if found.reference is None:
        return ""
    if found.is_better(found.after, found.reference):
        return f", better than {_the(found.reference.model)}'s {_value(found, found.reference)}"
    assert found.gap_closed is not None  # the reference is ahead of a row that got better
    return f", closing {100 * found.gap_closed:.0f} % of the gap to {_the(found.reference.model)}"


def _goal(found: Comparison) -> str:
    if found.reference is None:
        return ""
    return f"; {_the(found.reference.model)} reaches {_value(found, found.reference)}"


def _cost(found: Comparison) -> str:
    mine, reference = found.after.parameters, found.reference.parameters if found.reference else None
    return f", at {measure.show_ratio(mine, reference)} of its parameters" if mine and reference else ""


def _alone(found: Comparison) -> str:
    after, reference = found.after, found.reference
    what = _measure(found)
    told = f"{_the(after.model)} reaches {'an' if what[0] in 'aeiou' else 'a'} {what} of {_value(found, after)}"
    if reference is not None:
        word = "better than" if found.is_better(after, reference) else "against"
        told += f", {word} {_the(reference.model)}'s {_value(found, reference)}{_cost(found)}"
    return told[0].upper() + told[1:] + "."


def _without_rows(record: Record) -> str:
    begun = [stage for stage in record.stages if stage.lines]
    if not begun:
        return f"The run {record.name} has no finished epoch."
    stage = begun[-1]
    reached = f"epoch {stage.last_epoch} of {stage.epochs or '?'} of stage {stage.name}"
    if record.status == "completed":
        return f"The run {record.name} ended with {reached}; nothing was measured on held-out data."
    return f"The run {record.name} got to {reached} and has no final result."


def _tiles(found: Comparison) -> list[Tile]:
    after, before, reference = found.after, found.before, found.reference
    tiles = [Tile(_value(found, after), f"{_measure(found)}: {after.title}")]
    if before is not None:
        change = found.value(after) - found.value(before)
        told = f"{100 * change:+.1f} points" if found.in_percent else f"{change:+.3g}"
        tiles.append(Tile(told, f"against {before.title}"))
    if found.gap_closed is not None and found.gap_closed > 0 and reference is not None:
        tiles.append(Tile(f"{100 * found.gap_closed:.0f} %", f"of the gap to {_the(reference.model)} closed"))
    if reference is not None and after.parameters and reference.parameters:
        tiles.append(Tile(f"{reference.parameters / after.parameters:.3g}×", f"smaller than {_the(reference.model)}"))
    if reference is not None and after.latency_ms and reference.latency_ms:
        tiles.append(Tile(f"{reference.latency_ms / after.latency_ms:.2g}×", f"the speed of {_the(reference.model)}"))
    return tiles


def _remarks(found: Comparison) -> list[str]:
    before, after = found.before, found.after
    if before is None or found.metric != "accuracy" or not found.in_percent or not after.samples:
        return []
    old, new = found.value(before), found.value(after)
    error = math.sqrt((old * (1 - old) + new * (1 - new)) / after.samples)
    if not 0 < abs(new - old) < 2 * error:
        return []
    return [
        f"The change of {100 * (new - old):+.1f} points is smaller than the uncertainty of {after.samples:,} "
        f"{after.split} samples (±{200 * error:.1f} points): repeat the run with other seeds before you rely on it."
    ]
