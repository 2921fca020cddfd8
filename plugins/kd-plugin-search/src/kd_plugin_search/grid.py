"""Every point of a space, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcore.search.objectives import Constraint, Objective
from kdcore.search.space import Point, Space


class GridSearcher:
    """Suggest every point of a finite space once, in the order of `Space.enumerate`, and then no more."""

    def __init__(self) -> None:
        self.position = 0
        self.points: Iterator[Point] = iter(())
        self.space: Space | None = None

    def setup(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        constraints: Sequence[Constraint] = (),
        storage: str | None = None,
    ) -> None:
        """Prepare for a search; raises ValueError for an infinite space."""
        self.space = space
        self._go_to(0)

    def suggest(self) -> Point | None:
        """Return the next point, None after the last."""
        point = next(self.points, None)
        self.position += point is not None
        return point

    def feedback(self, point: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Learn nothing: the order does not depend on results."""

    def state_dict(self) -> dict[str, Any]:
        """Return how many points were suggested."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after as many points."""
        self._go_to(int(state["position"]))

    def _go_to(self, position: int) -> None:
        assert self.space is not None, "setup comes first"
        self.position = position
        self.points = itertools.islice(self.space.enumerate(), position, None)
