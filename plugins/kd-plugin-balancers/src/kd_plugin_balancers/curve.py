"""A weight as a function of progress; torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Curve:
    """Goes from `start` to `end` while progress goes from `begin` to `until`.

    Arguments:
        kind: `linear`; `cosine` (half a cosine wave); `step`, which jumps at `begin`; `constant`.
        start: the value up to `begin`.
        end: the value from `until` on.
        begin: a fraction of the stage, from 0 to 1.
        until: a fraction of the stage, above `begin`.
    """

    kind: str
    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    @classmethod
    def read(cls, spec: Mapping[str, Any]) -> Curve:
        """Read the curve off a config, for a spec without problems."""
        start = spec["start"]
        return cls(spec["kind"], start, spec.get("end", start), spec.get("from", 0.0), spec.get("to", 1.0))

    def at(self, progress: float) -> float:
        """Return the value where `progress`, from 0 to 1, of the stage is done."""
        if self.kind == "constant":
            return self.start
        if self.kind == "step":
            return self.end if progress >= self.begin else self.start
        done = min(1.0, max(0.0, (progress - self.begin) / (self.until - self.begin)))
        if self.kind == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


def curve_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the keys of a curve beyond their types."""
    kind = spec["kind"]
    allowed = {"constant": {"start"}, "step": {"start", "end", "from"}}.get(kind, {"start", "end", "from", "to"})
    needed = {"constant": {"start"}, "step": {"start", "end", "from"}}.get(kind, {"start", "end"})
    given = spec.keys() - {"kind"}
    for key in sorted(given - allowed):
        yield f"{kind} has no {key!r}; it takes {', '.join(sorted(allowed))}"
    for key in sorted(needed - given):
        yield f"{kind} needs {key!r}"
    for key in sorted(given):
        if not math.isfinite(spec[key]):
            yield f"{key} must be a finite number, found {spec[key]}"
    begin, until = spec.get("from", 0.0), spec.get("to", 1.0)
    if "to" in allowed and begin >= until:
        yield f"'from' must be below 'to', found {begin:g} and {until:g}"
