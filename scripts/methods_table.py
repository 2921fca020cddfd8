"""Run the digits example of every method under several seeds and keep the test accuracies in docs/methods.json.

python scripts/methods_table.py --methods kd,at --seeds 5 --jobs 2

What is there already is not run again, unless the example or a version has changed since. `make generate` then writes
docs/methods.md from it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdcore import Paper, __version__, load_config
from kdcore.component import Kind
from kdcore.plugins import Registered, Registry

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "digits"
FILE = ROOT / "docs" / "methods.json"

# The model that is judged, and the stage in which it learns from labels alone.
STUDENT = "student"
ALONE = "alone"
# Its row `alone` stands beside examples that have none of their own.
BASELINE = "kd"


@dataclass(frozen=True)
class Recipe:
    """A method that is put together from parts instead of being a loss of its own."""

    title: str
    parts: str
    paper: Paper


RECIPES = {
    "fitnet": Recipe(
        "FitNets",
        "a stage with `mse` through the adapter `conv`, then `kd`",
        Paper("FitNets: Hints for Thin Deep Nets", 2015, "https://arxiv.org/abs/1412.6550"),
    ),
    "ce_l2": Recipe(
        "CE+L2",
        "`cross_entropy`, and `mse` of embeddings through the adapter `linear`",
        Paper("Prime-Aware Adaptive Distillation", 2020, "https://arxiv.org/abs/2008.01458"),
    ),
    "tf_kd": Recipe(
        "Teacher-free distillation",
        "`kd` from the student's own weights of an earlier stage (`start:`)",
        Paper(
            "Revisiting Knowledge Distillation via Label Smoothing Regularization",
            2020,
            "https://arxiv.org/abs/1909.11723",
        ),
    ),
    "ghnd": Recipe(
        "(Generalised) head network distillation",
        "`mse` at the split and behind it, the teacher's own end taken over by `start:` and frozen",
        Paper(
            "Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged Networks",
            2020,
            "https://arxiv.org/abs/2007.15818",
        ),
    ),
    "mutual": Recipe(
        "Deep mutual learning",
        "two trained models and a `kd` each way",
        Paper("Deep Mutual Learning", 2018, "https://arxiv.org/abs/1706.00384"),
    ),
    "two_teachers": Recipe(
        "Several teachers",
        "one `kd` per teacher",
        Paper("Learning from Multiple Teacher Networks", 2017, "https://doi.org/10.1145/3097983.3098135"),
    ),
}

# A published loss is shown by examples/digits/<type>.yaml, but for these.
SHOWN_IN = {
    "affinity": "kta",
    "at": "attention",
    "hierarchical_context": "review_kd",
    "logit_std_kd": "logit_std",
    "pad_l2": "pad",
    "skd_direction": "skd",
    "sskd_auxiliary": "sskd",
}

# Published losses and recipes whose accuracies would not belong into one table with the others', and why.
WITHOUT: dict[str, str] = {
    "ghnd": "its student is the teacher with a narrow beginning, not the small network of the others; the example says "
    "what comes out",
}


def published(registry: Registry, *kinds: Kind) -> list[Registered]:
    """Return the components with a paper that the packages of this repository offer."""
    own = {file.parent.name for file in (ROOT / "plugins").glob("*/pyproject.toml")}
    found = [each for kind in kinds for each in registry.all(kind)]
    return [each for each in found if each.component.paper is not None and each.provenance.distribution in own]


def example_of(method: str) -> Path:
    """Return the config that shows a method."""
    return EXAMPLES / f"{SHOWN_IN.get(method, method)}.yaml"


def methods(registry: Registry) -> dict[str, Path]:
    """Return the example of each method that has one: the published losses, then the recipes.

    A loss that is part of another one's example, such as that of its first stage, is not run twice.
    """
    names = [*(each.name for each in published(registry, Kind.LOSS)), *RECIPES]
    whole = [name for name in names if SHOWN_IN.get(name) not in names and name not in WITHOUT]
    return {name: example_of(name) for name in whole if example_of(name).is_file()}


def digest_of(file: Path) -> str:
    """Return a digest of what an example says, comments and description left out."""
    content = {**yaml.safe_load(file.read_text(encoding="utf-8")), "description": None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(file: Path) -> dict[str, Any]:
    """Return what the accuracies of an example depend on, as far as it is written down."""
    import torch

    config = load_config(file)
    losses = [term.loss for stage in config.stages for term in stage.terms]
    origins = [each.registered.provenance for each in (*losses, *(each.part for each in config.adapters.values()))]
    plugins = dict(sorted((each.distribution, each.version) for each in set(origins)))
    versions = {"kdcore": __version__, "torch": torch.__version__.partition("+")[0], **plugins}
    return {"example": file.name, "digest": digest_of(file), "versions": versions}


def student_epochs(file: Path) -> int:
    """Return for how many epochs an example trains its student with the method."""
    stages = load_config(file).stages
    return sum(stage.epochs or 0 for stage in stages if STUDENT in stage.train and stage.name != ALONE)


def measure(file: Path, seed: int) -> dict[str, float]:
    """Run an example and return its student's test accuracy, and that of the student alone if it has one."""
    from kdcore import run

    with tempfile.TemporaryDirectory() as folder:
        chosen = [f"seed={seed}", "device=cpu", f"output_dir={json.dumps(folder)}"]
        finished = run(load_config(file, overrides=chosen), quiet=True)
        rows = json.loads((finished / "results.json").read_text(encoding="utf-8"))["rows"]
    judged = {row["stage"]: row["metrics"]["accuracy"] for row in rows if row["model"] == STUDENT}
    alone = {ALONE: judged.pop(ALONE)} if ALONE in judged else {}
    return {**alone, "method": list(judged.values())[-1]}


def use_one_thread() -> None:
    """Let this process compute on one thread: with another number the last bits would differ."""
    import torch

    torch.set_num_threads(1)


def read(file: Path = FILE) -> dict[str, Any]:
    """Return what has been measured, by method."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(measured: Mapping[str, Any], file: Path = FILE) -> None:
    """Save it, so that there is never half a file."""
    beside = file.with_suffix(".partial")
    beside.write_text(json.dumps(dict(sorted(measured.items())), indent=1) + "\n", encoding="utf-8")
    beside.replace(file)


def outdated(measured: dict[str, Any], chosen: Mapping[str, Path], again: bool) -> None:
    """Describe each chosen method anew and forget accuracies that belong to another example or version."""
    for name, file in chosen.items():
        before, now = measured.get(name, {}), fingerprint(file)
        same = not again and all(before.get(key) == value for key, value in now.items())
        if before and not same:
            print(f"{name}: measured again, for it is not what it was", flush=True)
        seeds = before["seeds"] if before and same else {}
        measured[name] = {**now, "epochs": student_epochs(file), "seeds": seeds}


def fill(measured: dict[str, Any], chosen: Mapping[str, Path], seeds: Iterable[int], jobs: int, file: Path) -> int:
    """Run what is missing and save after each run; returns how many runs failed."""
    missing = [(name, seed) for seed in seeds for name in chosen if str(seed) not in measured[name]["seeds"]]
    print(f"methods: {len(chosen)}, runs to do: {len(missing)}", flush=True)
    started, failed = time.monotonic(), 0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=use_one_thread) as pool:
        running = {pool.submit(measure, chosen[name], seed): (name, seed) for name, seed in missing}
        for count, future in enumerate(as_completed(running), start=1):
            name, seed = running[future]
            said = f"[{count}/{len(missing)}, {time.monotonic() - started:.0f} s] {name}, seed {seed}"
            # One method that fails must not cost the runs of all others; it is told, and the command fails at the end.
            if (error := future.exception()) is not None:
                failed += 1
                print(f"{said} FAILED: {type(error).__name__}: {error}", flush=True)
                continue
            result = measured[name]["seeds"][str(seed)] = future.result()
            measured[name]["seeds"] = dict(sorted(measured[name]["seeds"].items(), key=lambda each: int(each[0])))
            write(measured, file)
            print(f"{said}: " + ", ".join(f"{row} {100 * value:.1f} %" for row, value in result.items()), flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and bring docs/methods.json up to date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--methods", help="names with commas between, by default all that have an example")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default 5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each (default 1)")
    parser.add_argument("--again", action="store_true", help="forget what is there: code may change without a version")
    parser.add_argument("--output", type=Path, default=FILE, help="by default docs/methods.json")
    options = parser.parse_args(arguments)
    known = methods(Registry.discover())
    names = options.methods.split(",") if options.methods else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no example of {', '.join(unknown)}; there are {', '.join(known)}")
    # The baseline too: examples without a stage `alone` are compared with its.
    chosen = {name: known[name] for name in dict.fromkeys([BASELINE, *names])}
    measured = read(options.output)
    outdated(measured, chosen, options.again)
    return 1 if fill(measured, chosen, range(options.seeds), options.jobs, options.output) else 0


if __name__ == "__main__":
    sys.exit(main())
