"""The tree-structured Parzen estimator."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler

from kd_plugin_optuna.searcher import OptunaSearcher


class TPESearcher(OptunaSearcher):
    r"""Suggest points that are likely among the good ones, compared with all others.

    The better part of the points known so far gives a density l(x), the rest g(x); of some points drawn from l the one
    with the largest l(x) / g(x) is suggested.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011, equation 3 and section 4. For several objectives
    the better part is chosen by dominance and hypervolume: Ozaki et al., Multiobjective Tree-Structured Parzen
    Estimator for Computationally Expensive Optimization Problems, 2020. By Optuna's TPESampler, with the densities of
    parameters that are active together joint, and points whose results are awaited counted among the others.

    Arguments:
        seed: what the suggestions follow from, 0 or more; None is 0.
        startup_trials: points drawn at random before, 1 or more.
    """

    whole = False

    def __init__(self, seed: int | None = None, startup_trials: int = 10) -> None:
        super().__init__(seed)
        self.startup_trials = startup_trials

    def sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler."""
        return TPESampler(
            seed=seed, n_startup_trials=self.startup_trials, multivariate=True, group=True, constant_liar=True
        )
