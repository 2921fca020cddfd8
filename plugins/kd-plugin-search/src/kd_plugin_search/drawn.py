"""Points drawn at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from kdcore.search.objectives import Constraint, Objective
from kdcore.search.space import Point, Space, point_key
from kdcore.search.unseen import draw_unseen, generator_state, restored_generator


class RandomSearcher:
    """Draw points, none twice; a finite space is exhausted at some time.

    Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, 2012. Here nothing is drawn again that was
    suggested before, or fed back.

    Arguments:
        seed: what the points follow from, 0 or more; None is 0.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.generator = random.Random(seed or 0)
        self.seen: dict[str, None] = {}
        self.space: Space | None = None

    def setup(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        constraints: Sequence[Constraint] = (),
        storage: str | None = None,
    ) -> None:
        """Prepare for a search."""
        self.space = space

    def suggest(self) -> Point | None:
        """Return a point that was not seen before, None if there is none left."""
        assert self.space is not None, "setup comes first"
        point = draw_unseen(self.space, self.seen, self.generator)
        if point is not None:
            self.seen[point_key(point)] = None
        return point

    def feedback(self, point: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Remember that the point is known, whatever came of it."""
        self.seen[point_key(point)] = None

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and what was seen."""
        return {"generator": generator_state(self.generator), "seen": list(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator = restored_generator(state["generator"])
        self.seen = dict.fromkeys(state["seen"])
