"""Points that were not seen before, drawn at random; for searchers."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

from kdcore.search.space import Point, Space, point_key

_TRIES = 200
_MAX_LISTED = 1_000_000


def draw_unseen(space: Space, seen: Collection[str], generator: random.Random) -> Point | None:
    """Draw a point whose key is not in `seen`; None if there is none.

    Of a space of more than a million points that is all but exhausted, an unseen point may be missed.

    Arguments:
        space: where to draw from.
        seen: the `point_key`s of points that will not do.
        generator: moves on.
    """
    for _ in range(_TRIES):
        point = space.sample(generator)
        if point_key(point) not in seen:
            return point
    size = space.size()
    if size is not None and size <= _MAX_LISTED:
        left = [point for point in space.enumerate() if point_key(point) not in seen]
        return left[generator.randrange(len(left))] if left else None
    # So many misses in so large a space: the parameters that matter are exhausted.
    return None


def generator_state(generator: random.Random) -> list[Any]:
    """Return the state of a generator as data that JSON can hold."""
    version, words, gauss = generator.getstate()
    return [version, list(words), gauss]


def restored_generator(state: Sequence[Any]) -> random.Random:
    """Return a generator in the state that `generator_state` returned."""
    version, words, gauss = state
    generator = random.Random()
    generator.setstate((version, tuple(words), gauss))
    return generator
