"""Bayesian optimization with Gaussian processes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler, GPSampler

from kd_plugin_optuna.encoding import Encoding
from kd_plugin_optuna.history import History
from kd_plugin_optuna.searcher import OptunaSearcher
from kdcore.search.space import Space, point_key

# So many points are compared one by one; of larger spaces a part that is drawn at random.
_MAX_CANDIDATES = 4096
# Of an infinite space: where a climb begins.
_MAX_STARTS = 512

Codes = Mapping[str, Any]


class BayesianSearcher(OptunaSearcher):
    r"""Suggest the point whose result is expected to improve most on what is known.

    A Gaussian process with a Matern 5/2 kernel for each objective; the expected improvement of one objective, or of the
    hypervolume of several, `E[HV(front + f(x)) - HV(front)]`; constraints enter as the probability that they hold.

    Daulton, Balandat, Bakshy, Differentiable Expected Hypervolume Improvement for Parallel Multi-Objective Bayesian
    Optimization, 2020, equation 1. By Optuna's GPSampler. Here, where the space is finite, the improvement is computed
    for the points not yet known, one by one, instead of climbing from some of them: what is suggested is then the best
    of them, valid and new. Of a space of more than 4,096 points as many are drawn for that, each time; in an infinite
    one the best of some points drawn is where the climb begins.

    Arguments:
        seed: what the suggestions follow from, 0 or more; None is 0.
        startup_trials: points drawn at random before, 1 or more; None is one more than there are parameters, as many
            as fix a plane.
    """

    def __init__(self, seed: int | None = None, startup_trials: int | None = None) -> None:
        super().__init__(seed)
        self.startup_trials = startup_trials

    def sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler."""
        return _CandidateSampler(
            _Candidates(self.space, self.encoding, self.history, seed),
            seed=seed,
            n_startup_trials=self.startup_trials or len(self.space) + 1,
            warn_independent_sampling=False,
        )


class _Candidates:
    """Points that may be suggested: all that are unseen, or some of them where there are too many."""

    def __init__(self, space: Space, encoding: Encoding, history: History, seed: int) -> None:
        self.space = space
        self.encoding = encoding
        self.history = history
        self.seed = seed
        self.finite = space.size() is not None

    def codes(self) -> list[Codes]:
        """Return the candidates as Optuna writes them."""
        size = self.space.size()
        if size is not None and size <= _MAX_CANDIDATES:
            points = self.space.enumerate()
        else:
            generator = random.Random(self.seed)
            points = (self.space.sample(generator) for _ in range(_MAX_CANDIDATES if self.finite else _MAX_STARTS))
        unseen = {key: point for point in points if (key := point_key(point)) not in self.history.entries}
        return [self.encoding.write(point) for point in unseen.values()]

    def admitted(self, codes: Codes) -> Codes | None:
        """Return codes as the point that they stand for is written; None if it will not do."""
        point = self.encoding.read(codes)
        return self.encoding.write(point) if point in self.space and point not in self.history else None


class _CandidateSampler(GPSampler):
    """Optuna's sampler, with its acquisition function evaluated on given candidates."""

    def __init__(self, candidates: _Candidates, **options: Any) -> None:
        super().__init__(**options)
        self.candidates = candidates

    def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
        codes = self.candidates.codes()
        if not codes:
            return super()._optimize_acqf(acqf, best_params)
        table = self._normalized(acqf, codes)
        values = acqf.eval_acqf_no_grad(table)
        best = int(np.argmax(values))
        if self.candidates.finite:
            return table[best]
        climbed = super()._optimize_acqf(acqf, table[[best]])
        # What is reached may stand for another point than it seems, where some parameters are not active.
        reached = {**codes[best], **acqf.search_space.get_unnormalized_param(climbed)}
        admitted = self.candidates.admitted(reached)
        if admitted is None:
            return table[best]
        row = self._normalized(acqf, [admitted])
        return row[0] if acqf.eval_acqf_no_grad(row)[0] > values[best] else table[best]

    def _normalized(self, acqf: Any, codes: Sequence[Codes]) -> Any:
        return acqf.search_space.get_normalized_params(codes, codes)
