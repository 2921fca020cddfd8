"""What a searcher knows: the points it suggested and was told about, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kdcore.search.space import Point, point_key

OPEN, COMPLETE, FAILED = "open", "complete", "failed"


@dataclass
class Entry:
    """One point; `values` are of the objectives, `violations` of the constraints, by their text."""

    point: Point
    state: str = OPEN
    values: tuple[float, ...] = ()
    violations: dict[str, float] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)
    shared: int | None = None


class History:
    """Entries in the order in which they came, at most one for a point."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, point: Mapping[str, Any]) -> bool:
        return point_key(point) in self.entries

    def find(self, point: Mapping[str, Any]) -> Entry | None:
        """Return the entry of a point."""
        return self.entries.get(point_key(point))

    def add(self, entry: Entry) -> Entry:
        """Add an entry, unless its point is known, and return the one there is."""
        return self.entries.setdefault(point_key(entry.point), entry)

    @property
    def num_complete(self) -> int:
        """How many points have values."""
        return sum(entry.state == COMPLETE for entry in self)

    def to_data(self) -> list[dict[str, Any]]:
        """Return the entries as data that JSON can hold."""
        return [asdict(entry) | {"values": list(entry.values)} for entry in self]

    @classmethod
    def from_data(cls, data: list[Mapping[str, Any]]) -> History:
        """Read `to_data` back."""
        found = cls()
        for each in data:
            found.add(Entry(**{**each, "values": tuple(each["values"])}))
        return found
