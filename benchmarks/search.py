"""How many trials each searcher needs for 95 % of the hypervolume that the whole space's front dominates.

The space of search.yaml was trained point by point (search_table.py); here searchers are replayed on what came out,
over ten seeds. The reference point of the hypervolume is the worst value of each objective in the table.

    python benchmarks/search.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdcore import create, load_config
from kdcore.config.search_config import SearchConfig
from kdcore.search.pareto import hypervolume
from kdcore.search.space import point_key

CONFIG = Path(__file__).with_name("search.yaml")
TABLE = Path(__file__).with_name("search_table.json")
SEARCHERS = ("random", "nsga2", "tpe", "bayesian")
SHARE = 0.95

Table = Mapping[str, Mapping[str, float]]


class Front:
    """The hypervolume that is to be reached."""

    def __init__(self, search: SearchConfig, table: Table) -> None:
        self.search = search
        self.table = table
        self.maximize = [each.maximize for each in search.objectives]
        rows = [self.values(metrics) for metrics in table.values()]
        worst = [min if up else max for up in self.maximize]
        self.reference = [pick(column) for pick, column in zip(worst, zip(*rows, strict=True), strict=True)]
        self.whole = self.volume(rows)

    def values(self, metrics: Mapping[str, float]) -> list[float]:
        """Return the values of the objectives."""
        return [metrics[each.metric] for each in self.search.objectives]

    def volume(self, rows: Sequence[Sequence[float]]) -> float:
        """Return the hypervolume of some points."""
        return hypervolume(rows, self.reference, self.maximize)

    def trials_needed(self, name: str, seed: int, share: float = SHARE) -> int:
        """Return after how many trials a searcher has reached the share; all of them if it never does."""
        searcher: Any = create("searcher", name, seed=seed)
        searcher.setup(self.search.space, self.search.objectives)
        rows: list[list[float]] = []
        while (point := searcher.suggest()) is not None:
            metrics = self.table[point_key(point)]
            searcher.feedback(point, metrics)
            rows.append(self.values(metrics))
            if self.volume(rows) >= share * self.whole:
                break
        return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--searchers", default=",".join(SEARCHERS))
    parser.add_argument("--share", type=float, default=SHARE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    search = load_config(CONFIG).search
    assert search is not None
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    front = Front(search, {point_key(row["point"]): row["metrics"] for row in rows})
    print(f"{len(rows)} points, {arguments.seeds} seeds: trials until {arguments.share:.0%} of the hypervolume\n")
    print("| searcher | median | lower and upper quartile | least and most | seconds per suggestion |")
    print("|---|---|---|---|---|")
    for name in arguments.searchers.split(","):
        start = time.process_time()
        needed = sorted(front.trials_needed(name, seed, arguments.share) for seed in range(arguments.seeds))
        spent = (time.process_time() - start) / sum(needed)
        low, middle, high = statistics.quantiles(needed, n=4, method="inclusive")
        print(f"| {name} | {middle:g} | {low:g} to {high:g} | {needed[0]} to {needed[-1]} | {spent:.3f} |", flush=True)


if __name__ == "__main__":
    main()
