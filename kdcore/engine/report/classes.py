"""Accuracy class by class: where a model gained and lost, and where the larger model stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcore.engine.report.comparison import Comparison
from kdcore.engine.row import PerClass, Row

_SHOWN = 30


@dataclass(frozen=True)
class ClassLine:
    """One class; positions and changes in percent, None where there is no value."""

    name: str
    count: int
    after: float
    before: float | None = None
    reference: float | None = None

    @property
    def change(self) -> float:
        """Points gained from before to after."""
        return self.after - self.before if self.before is not None else 0.0

    @property
    def bar(self) -> tuple[float, float]:
        """Where the line between before and after starts, and how long it is."""
        start = self.after if self.before is None else self.before
        return min(start, self.after), abs(self.after - start)


@dataclass(frozen=True)
class ClassChanges:
    """The classes to show, where their scale starts, and how many are left out."""

    lines: tuple[ClassLine, ...]
    low: float
    left_out: int
    before: str = ""
    after: str = ""
    reference: str = ""

    def at(self, percent: float) -> float:
        """Return the position of a value on the scale, in percent of its width."""
        return round((percent - self.low) / (100 - self.low) * 100, 2) if self.low < 100 else 100.0


def class_changes(found: Comparison | None) -> ClassChanges | None:
    """Compare the rows of a comparison class by class; None if `after` was not measured so."""
    if found is None or found.after.per_class is None:
        return None
    after = found.after.per_class
    before, reference = (_values(row, after) for row in (found.before, found.reference))
    lines = [
        ClassLine(name, count, 100 * value, _percent(before, name), _percent(reference, name))
        for name, value, count in zip(after.names, after.accuracy, after.count, strict=True)
        if value is not None
    ]
    if not lines:
        return None
    shown = _most_changed(lines) if len(lines) > _SHOWN else lines
    lowest = min(value for line in shown for value in (line.after, line.before, line.reference) if value is not None)
    return ClassChanges(
        tuple(shown),
        min(90.0, lowest // 10 * 10),
        len(lines) - len(shown),
        found.before.title if found.before is not None and before else "",
        found.after.title,
        found.reference.title if found.reference is not None and reference else "",
    )


def _values(row: Row | None, like: PerClass) -> dict[str, float | None]:
    told = row.per_class if row is not None else None
    return dict(zip(told.names, told.accuracy, strict=True)) if told is not None and told.names == like.names else {}


def _percent(values: dict[str, float | None], name: str) -> float | None:
    value = values.get(name)
    return None if value is None else 100 * value


def _most_changed(lines: Sequence[ClassLine]) -> list[ClassLine]:
    """Return the classes that gained and lost most, in order of their change."""
    ordered = sorted(lines, key=lambda line: (-line.change, line.after))
    return [*ordered[: _SHOWN // 2], *ordered[-(_SHOWN // 2) :]]
