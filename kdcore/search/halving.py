"""Asynchronous successive halving: trials that fall behind the others are not trained to their end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kdcore.config.search_config import HalvingConfig
from kdcore.errors import RunError, suggestion
from kdcore.search.objectives import Objective


class Halving:
    """Decides after some epochs whether a trial goes on: only the best share of those that got as far does.

    Trials are compared after r, r f, r f^2, ... epochs (r is `after_epochs`, f is `factor`). Of n trials that
    have got there, the one that asks goes on if it is among the best max(1, floor(n / f)).

    Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020 (ASHA, Algorithm 2). There a trial
    waits until it is promoted; here it goes on or ends when it asks, so that none is kept waiting. The first
    to get somewhere always goes on.

    Arguments:
        config: when trials are compared, and how many go on.
        objective: what is compared.
    """

    def __init__(self, config: HalvingConfig, objective: Objective) -> None:
        self._config = config
        self._objective = objective
        self._costs: dict[int, dict[int, float]] = {}

    def goes_on(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Return whether trial `number`, which has trained `epoch` epochs, is to go on.

        Raises:
            RunError: the objective is not measured after each epoch.
        """
        if not self._compared(epoch):
            return True
        name = self._objective.metric
        if name not in metrics:
            raise RunError(
                f"stop_early compares trials by {name!r}, which is not measured after each epoch",
                repair=suggestion(name, metrics, noun="metrics of an epoch"),
            )
        cost = self._objective.cost(metrics)
        costs = self._costs.setdefault(epoch, {})
        # By number, so that a trial that is trained again after an interruption does not count twice.
        costs[number] = math.inf if math.isnan(cost) else cost
        ranked = sorted(costs.values())
        last = ranked[max(1, len(ranked) // self._config.factor) - 1]
        return costs[number] <= last

    def state_dict(self) -> dict[str, Any]:
        """Return all that has been compared, as data that JSON can hold."""
        return {
            str(epoch): {str(number): cost if math.isfinite(cost) else None for number, cost in costs.items()}
            for epoch, costs in self._costs.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another one has compared."""
        self._costs = {
            int(epoch): {int(number): math.inf if cost is None else cost for number, cost in costs.items()}
            for epoch, costs in state.items()
        }

    def _compared(self, epoch: int) -> bool:
        rung = self._config.after_epochs
        while rung < epoch:
            rung *= self._config.factor
        return rung == epoch
