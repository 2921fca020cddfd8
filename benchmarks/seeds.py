"""Run a config under several seeds and print each row's mean and standard deviation, as Markdown.

python benchmarks/seeds.py examples/digits/kd.yaml --seeds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile

from kdcore import load_config, run


def collect(config: str, seeds: int, overrides: list[str]) -> dict[str, list[dict[str, float]]]:
    """Return each row's test metrics, one dict per seed."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            chosen = [*overrides, f"seed={seed}", f"output_dir={folder}"]
            results = json.loads((run(load_config(config, overrides=chosen), quiet=True) / "results.json").read_text())
            for row in results["rows"]:
                numbers = {**row["metrics"], "parameters": row["parameters"]}
                if "sparsity" in row:
                    numbers["sparsity"] = row["sparsity"]
                found.setdefault(row["title"], []).append(numbers)
            print(f"seed {seed}: " + ", ".join(_told(row) for row in results["rows"]), flush=True)
    return found


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return a Markdown table of means and sample standard deviations."""
    names = [name for name in next(iter(found.values()))[0] if name not in ("parameters", "sparsity")]
    sparse = ["sparsity"] if any("sparsity" in runs[0] for runs in found.values()) else []
    headings = [*names, "parameters", *sparse]
    lines = [" | ".join(["", *headings]) + " |", "|---" + "|---:" * len(headings) + "|"]
    for title, runs in found.items():
        cells = [_spread([each[name] for each in runs]) for name in names]
        cells.append(f"{int(runs[0]['parameters']):,}")
        cells += [_spread([each[name] for each in runs]) if name in runs[0] else "" for name in sparse]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "|" + "\n".join(lines)


def _told(row: dict[str, object]) -> str:
    return f"{row['title']} {row['metrics']}"


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f} %"


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("config", nargs="?", default="examples/digits/kd.yaml")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default 5)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as for kd run")
    options = parser.parse_args()
    print("\n" + table(collect(options.config, options.seeds, options.set)))


if __name__ == "__main__":
    main()
