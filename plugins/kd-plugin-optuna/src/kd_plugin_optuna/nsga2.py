"""NSGA-II, a genetic algorithm."""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIISampler

from kd_plugin_optuna.searcher import OptunaSearcher


class NSGA2Searcher(OptunaSearcher):
    """Breed points from those that no other dominates.

    Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002. By Optuna's NSGAIISampler, with its
    uniform crossover. Here a point is never suggested twice: after some vain attempts one is drawn at random, which
    keeps generations varied.

    Arguments:
        seed: what the suggestions follow from, 0 or more; None is 0.
        population: points in a generation, 2 or more; the first generation is drawn at random.
    """

    def __init__(self, seed: int | None = None, population: int = 20) -> None:
        super().__init__(seed)
        self.population = population

    def sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler."""
        return NSGAIISampler(seed=seed, population_size=self.population)
