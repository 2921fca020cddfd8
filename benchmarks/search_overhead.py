"""What a search costs beyond training: the overhead of a trial, and what a second job brings.

A trial's overhead is what would be left of it without any epoch, from trials of few and of many epochs: process,
config, data, models, wiring, test split, latency, report. The first trial is left out: it imports what the others then
find imported. Trials use one thread; searches with one and two jobs alternate. Quote these on an idle machine with two
cores; what other work used meanwhile is printed too, and how much more two bare training loops do than one.

    python benchmarks/search_overhead.py [rounds]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from kdcore import Search
from kdcore.search.job import Channel, Job, Outcome
from kdcore.search.progress import SearchProgress
from kdcore.search.record import Trial
from kdcore.search.workers import Workers

CONFIG = """
version: 1
name: overhead
device: cpu
data:
  train: {type: digits, params: {split: train}, batch_size: 32, shuffle: true}
  val: {type: digits, params: {split: val}, batch_size: 512}
  test: {type: digits, params: {split: test}, batch_size: 512}
models:
  teacher: {type: digits_cnn, params: {width: 8}}
  student: {type: digits_cnn, params: {width: 4}}
stages:
  - name: teacher
    epochs: 1
    train: [teacher]
    losses: {ce: {type: cross_entropy, inputs: {input: teacher}}}
    optimizer: {type: SGD, params: {lr: 0.1}}
  - name: distill
    epochs: 8
    train: [student]
    losses: {ce: cross_entropy, kd: {type: kd, params: {temperature: 4}}}
    optimizer: {type: SGD, params: {lr: 0.1}}
search:
  searcher: random
  space: {stages.distill.losses.kd.params.temperature: {low: 1.0, high: 8.0}}
  objectives: [{metric: val/student/accuracy, goal: maximize}]
"""
TRIALS = 12
FEW, MANY, REPEATS = 1, 9, 4
LOOP = 2000
LIMIT_S, LIMIT_SPEEDUP = 0.3, 1.7


class Clock(SearchProgress):
    """Takes the time of each trial."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[int, float] = {}
        self.ended: dict[int, float] = {}

    def trial_started(self, number: int, point: Mapping[str, Any]) -> None:
        """Note the time."""
        self.begun[number] = time.perf_counter()

    def trial_ended(self, trial: Trial) -> None:
        """Note the time."""
        self.ended[trial.number] = time.perf_counter()


def trained_s(folder: Path) -> float:
    """Return the seconds of a run's own epochs; the shared stage's were trained elsewhere."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(float(line["seconds"]) for line in lines if line["stage"] == "distill")


def searched(folder: str, jobs: int) -> tuple[list[float], float]:
    """Run one search; returns the overhead of each trial but the first ones, and the trials per second from then on."""
    clock = Clock()
    overrides = [f"search.jobs={jobs}", f"search.max_trials={TRIALS + jobs}"]
    result = Search(CONFIG, overrides=overrides, output_dir=folder, progress=clock).run()
    late = [trial for trial in result.trials if trial.number >= jobs]
    overheads = [
        clock.ended[each.number] - clock.begun[each.number] - trained_s(result.folder / str(each.folder))
        for each in late
    ]
    # From the moment the first trials have ended every job is warm.
    begin = sorted(clock.ended.values())[jobs - 1]
    return overheads, TRIALS / (max(clock.ended.values()) - begin)


def timed(job: Job, channel: Channel) -> Outcome:
    """Run a trial and say how much CPU time its process took, which began with its fork."""
    from kdcore.search.trial import run_trial

    outcome = run_trial(job, channel)
    return replace(outcome, metrics={"cpu_s": time.process_time()})


def beyond_epochs(folder: str) -> tuple[float, float]:
    """Return the seconds and CPU seconds of a trial beyond its epochs, from trials with few and many of them."""
    config = Path(folder) / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    times: dict[int, list[tuple[float, float]]] = {FEW: [], MANY: []}
    alone = "stages=[{name: distill, epochs: 1, train: [student], losses: {ce: cross_entropy}, optimizer: SGD}]"
    with Workers(target="search_overhead:timed") as workers:
        for number in range(2 * REPEATS + 1):
            epochs = (FEW, MANY)[number % 2]
            overrides = (alone, f"stages.distill.epochs={epochs}")
            start = time.perf_counter()
            run = str(Path(folder) / f"cpu-{number}")
            workers.start(Job(number, run, str(config), overrides, threads=1, measured=(("", "student"),)))
            while len(workers):
                for event in workers.wait(1.0):
                    if event.kind == "asked":
                        workers.answer(event.number, go=True)
                    elif event.kind == "ended" and number:
                        times[epochs].append((time.perf_counter() - start, event.data.metrics["cpu_s"]))
    wall, cpu = (
        few - FEW * (many - few) / (MANY - FEW)
        for few, many in zip(*(map(min, zip(*times[epochs], strict=True)) for epochs in (FEW, MANY)), strict=True)
    )
    return wall, cpu


def steps_per_s() -> float:
    """Return how fast a bare training loop goes."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    batch = torch.randn(32, 1, 8, 8)
    start = time.perf_counter()
    for _ in range(LOOP):
        model(batch).sum().backward()
    return LOOP / (time.perf_counter() - start)


def ceiling() -> float:
    """Return how much more two bare loops in processes of their own do than one: what this machine allows now."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.starmap(steps_per_s, [()] * 2, chunksize=1)
        alone = pool.apply(steps_per_s)
        return sum(pool.starmap(steps_per_s, [()] * 2, chunksize=1)) / alone


def busy_s() -> float:
    """Return the CPU seconds that the whole machine has used, ours included."""
    first = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    idle = int(first[3]) + int(first[4])
    return float(sum(map(int, first[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    speeds: dict[int, list[float]] = {1: [], 2: []}
    overheads: list[float] = []
    ceilings: list[float] = []
    start, busy, own = time.perf_counter(), busy_s(), os.times()
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            ceilings.append(ceiling())
            for jobs in (1, 2) if turn % 2 == 0 else (2, 1):
                found, speed = searched(folder, jobs)
                speeds[jobs].append(speed)
                if jobs == 1:
                    overheads += found
    seconds, used = time.perf_counter() - start, os.times()
    ours = sum(used[:4]) - sum(own[:4])
    others = (busy_s() - busy - ours) / seconds
    low, high = min(overheads), max(overheads)
    middle = statistics.median(overheads)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = beyond_epochs(folder)
    print(f"a trial beyond its epochs: {wall:.3f} s, of which {cpu:.3f} s of CPU time, aim {LIMIT_S} s")
    print(f"with the checkpoints of eight epochs: median {middle:.3f} s ({low:.3f} to {high:.3f})")
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"two jobs against one: {statistics.median(ratios):.2f} x (rounds: {told}), aim {LIMIT_SPEEDUP} x")
    print(f"two bare loops against one, at the same time: {statistics.median(ceilings):.2f} x")
    print(f"{os.cpu_count()} cores, of which other work used {others:.2f} on average")


if __name__ == "__main__":
    main()
