"""Measure what the examples of pruning reach over several seeds, with and without the teacher, as Markdown.

python benchmarks/pruning_seeds.py --seeds 5

One run per seed trains the teacher and the dense student once, and from these the pruned students of all examples.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kdcore import load_config, run
from kdcore.config.reader import read_config

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "pruning"
NAMES = ("magnitude", "snip_momentum", "two_of_four", "channels")
DENSE = "dense"

Results = dict[str, dict[str, float]]


def combined() -> dict[str, Any]:
    """Return one config with the stages of all examples: those that all share once, then each one's own."""
    configs = {name: read_config(EXAMPLES / f"{name}.yaml").data for name in NAMES}
    whole: dict[str, Any] = copy.deepcopy(configs[NAMES[0]])
    whole["stages"] = [each for each in whole["stages"] if "pruning" not in each]
    # What distillation does for a student that keeps all its weights.
    taught = next(each for each in configs[NAMES[0]]["stages"] if each["name"] == "distilled")
    whole["stages"].append({key: value for key, value in taught.items() if key != "pruning"})
    whole["stages"][-1] |= {"name": f"{DENSE}-distilled", "title": f"{DENSE}-distilled"}
    for name, config in configs.items():
        for stage in config["stages"]:
            if "pruning" in stage:
                title = f"{name}-{stage['name']}"
                whole["stages"].append({**stage, "name": title, "title": title})
    return whole


def measured(seed: int) -> Results:
    """Run all stages under one seed; returns accuracy, sparsity and what is left of the weights by stage."""
    with tempfile.TemporaryDirectory() as folder:
        config = {**combined(), "seed": seed, "output_dir": folder, "device": "cpu"}
        results = json.loads((run(load_config(yaml.safe_dump(config)), quiet=True) / "results.json").read_text())
    rows = {row["title"]: row for row in results["rows"]}
    return {
        title: {
            "accuracy": row["metrics"]["accuracy"],
            "sparsity": row.get("sparsity", 0.0),
            "left": row.get("nonzero_parameters", row["parameters"]),
        }
        for title, row in rows.items()
    }


def table(found: list[Results]) -> str:
    """Return a Markdown table of means and sample standard deviations."""
    spread = partial(_spread, found)
    lines = [
        "| example | sparsity | weights left | pruned alone | pruned while distilling |",
        "|---|---:|---:|---:|---:|",
        f"| none | 0 % | {_left(found, DENSE)} | {spread('student, dense')} | {spread(f'{DENSE}-distilled')} |",
    ]
    for name in NAMES:
        alone, taught = f"{name}-alone", f"{name}-distilled"
        share = statistics.mean(each[taught]["sparsity"] for each in found)
        lines.append(f"| {name} | {100 * share:.1f} % | {_left(found, taught)} | {spread(alone)} | {spread(taught)} |")
    better = {
        name: sum(each[f"{name}-distilled"]["accuracy"] > each[f"{name}-alone"]["accuracy"] for each in found)
        for name in NAMES
    }
    told = ", ".join(f"{name} {count}" for name, count in better.items())
    return "\n".join([*lines, "", f"teacher: {spread('teacher')}", f"seeds in which the teacher helped: {told}"])


def _left(found: list[Results], title: str) -> str:
    title = "student, dense" if title == DENSE else title
    return f"{statistics.mean(each[title]['left'] for each in found):,.0f}"


def _spread(found: list[Results], title: str) -> str:
    values = [each[title]["accuracy"] for each in found]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f} %"


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default 5)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default 1)")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        found = []
        for seed, results in enumerate(pool.map(measured, range(options.seeds))):
            found.append(results)
            print(
                f"seed {seed}: " + ", ".join(f"{key} {each['accuracy']:.4f}" for key, each in results.items()),
                flush=True,
            )
    print("\n" + table(found))


if __name__ == "__main__":
    main()
