"""Run the digits example of every method under several seeds and keep the test accuracies in docs/methods.json.

python scripts/methods_table.py --methods kd,at --seeds 5 --jobs 2

What is there already is not run again, unless the example, the code of a package that it uses or a version has
changed since: fingerprints.py says how that is known, and --check which rows it concerns. Each run is saved when it
ends, so the same command continues a table that was interrupted, and a row keeps its old figures until its first new
one is there.
`make generate` then writes docs/methods.md, and the figures in other pages, from it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fingerprints import fingerprint

from kdcore import Paper, load_config
from kdcore.component import Kind
from kdcore.plugins import Registered, Registry

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "digits"
FILE = ROOT / "docs" / "methods.json"

# The model that is judged, and the stage in which it learns from labels alone.
STUDENT = "student"
ALONE = "alone"
# The model that teaches it, and the stage in which it learns, where there is one.
TEACHER = "teacher"
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
    "self_distillation": Recipe(
        "Self-distillation in groups: features, logits, labels",
        "`self_kd` of features and of logits and `cross_entropy`, for each exit behind a layer of the student",
        Paper(
            "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
            2019,
            "https://arxiv.org/abs/1905.08094",
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
    """Return what the packages of this repository offer that has a paper or, if a loss, an example."""
    own = {file.parent.name for file in (ROOT / "plugins").glob("*/pyproject.toml")}
    found = [each for kind in kinds for each in registry.all(kind) if each.provenance.distribution in own]
    return [each for each in found if each.component.paper is not None or shown(each)]


def shown(registered: Registered) -> bool:
    """Say whether an example stands for a component, as one does for a loss of no paper."""
    return registered.kind is Kind.LOSS and example_of(registered.name).is_file()


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


def student_epochs(file: Path) -> int:
    """Return for how many epochs an example trains its student with the method."""
    stages = load_config(file).stages
    return sum(stage.epochs or 0 for stage in stages if STUDENT in stage.train and stage.name != ALONE)


def measure(file: Path, seed: int) -> dict[str, float]:
    """Run an example; returns the test accuracy of its student, and of the teacher and the student alone if trained."""
    from kdcore import run

    with tempfile.TemporaryDirectory() as folder:
        chosen = [f"seed={seed}", "device=cpu", f"output_dir={json.dumps(folder)}"]
        finished = run(load_config(file, overrides=chosen), quiet=True)
        rows = json.loads((finished / "results.json").read_text(encoding="utf-8"))["rows"]
    judged = {row["stage"]: row["metrics"]["accuracy"] for row in rows if row["model"] == STUDENT}
    teacher = [row["metrics"]["accuracy"] for row in rows if row["model"] == row["stage"] == TEACHER]
    others = {TEACHER: teacher[-1]} if teacher else {}
    if ALONE in judged:
        others[ALONE] = judged.pop(ALONE)
    return {**others, "method": list(judged.values())[-1]}


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


def current(measured: Mapping[str, Any], chosen: Mapping[str, Path], again: bool) -> dict[str, Any]:
    """Describe each chosen method as it is, with the accuracies that belong to it still."""
    described = {}
    for name, file in chosen.items():
        before, now = measured.get(name, {}), fingerprint(file)
        same = not again and all(before.get(key) == value for key, value in now.items())
        if before and not same:
            print(f"{name}: {'; '.join(changes(before, now)) or 'asked for'}, to be measured again", flush=True)
        described[name] = {**now, "epochs": student_epochs(file), "seeds": dict(before["seeds"]) if same else {}}
    return described


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what has changed since a row was measured."""
    found = [] if before.get("digest") == now["digest"] else [f"{now['example']} has changed"]
    for what, said in (("sources", "code of {}"), ("versions", "version of {}")):
        old, new = before.get(what, {}), now[what]
        different = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        if different:
            found.append(said.format(", ".join(different)) + " has changed")
    return found


def missing(described: Mapping[str, Any], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Return the runs to do, method by method, so that an interruption leaves few of them half measured."""
    return [(name, seed) for name, row in described.items() for seed in seeds if str(seed) not in row["seeds"]]


def fill(measured: dict[str, Any], described: Mapping[str, Any], seeds: Sequence[int], jobs: int, file: Path) -> int:
    """Run what is missing and save after each run; returns how many runs failed."""
    todo = missing(described, seeds)
    print(f"methods: {len(described)}, runs to do: {len(todo)}", flush=True)
    started, failed = time.monotonic(), 0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=use_one_thread) as pool:
        running = {
            pool.submit(measure, EXAMPLES / described[name]["example"], seed): (name, seed) for name, seed in todo
        }
        try:
            for count, future in enumerate(as_completed(running), start=1):
                name, seed = running[future]
                said = f"[{count}/{len(todo)}, {time.monotonic() - started:.0f} s] {name}, seed {seed}"
                # One that fails must not cost the runs of all others; it is told, and the command fails at the end.
                if (error := future.exception()) is not None:
                    failed += 1
                    print(f"{said} FAILED: {type(error).__name__}: {error}", flush=True)
                    continue
                result = future.result()
                keep(measured, name, described[name], seed, result)
                write(measured, file)
                print(
                    f"{said}: " + ", ".join(f"{row} {100 * value:.1f} %" for row, value in result.items()), flush=True
                )
        except BaseException:
            # What is under way is lost, and what waits is not begun: the next call runs both.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return failed


def keep(measured: dict[str, Any], name: str, row: dict[str, Any], seed: int, result: dict[str, float]) -> None:
    """Enter a run; a row's first one takes the place of figures that belong to something else."""
    row["seeds"] = dict(sorted({**row["seeds"], str(seed): result}.items(), key=lambda each: int(each[0])))
    measured[name] = row


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and bring docs/methods.json up to date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--methods", help="names with commas between, by default all that have an example")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default 5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each (default 1)")
    parser.add_argument(
        "--again",
        action="store_true",
        help="measure anew what is there, as after a change of the core; interrupted, it begins anew",
    )
    parser.add_argument(
        "--check", action="store_true", help="run nothing: say what would be run, and fail if that is any"
    )
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
    described = current(measured, chosen, options.again)
    if options.check:
        todo = missing(described, range(options.seeds))
        print(f"runs to do: {len(todo)}, of {', '.join(dict.fromkeys(name for name, _ in todo)) or 'no method'}")
        return 1 if todo else 0
    return 1 if fill(measured, described, range(options.seeds), options.jobs, options.output) else 0


if __name__ == "__main__":
    sys.exit(main())
