"""Which epoch is the best by a metric, and how long ago it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Selection:
    """Follows a metric from epoch to epoch: which was best, and how long ago."""

    metric: str
    mode: str
    min_delta: float = 0.0
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0

    def update(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Look at one epoch; returns whether it is the best so far. One that is NaN or infinite never is."""
        value = metrics[self.metric]
        sign = 1.0 if self.mode == "max" else -1.0
        better = math.isfinite(value) and (self.best is None or sign * (value - self.best) > self.min_delta)
        self.waited = 0 if better else self.waited + 1
        if better:
            self.best, self.best_epoch = value, epoch
        return better

    def load(self, state: Mapping[str, Any]) -> bool:
        """Go on from what another Selection had seen; returns whether it has compared the same."""
        alike = (state["metric"], state["mode"]) == (self.metric, self.mode)
        if alike:
            self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        return alike
