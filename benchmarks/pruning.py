"""What pruning costs: criteria and masks in a step, and a threshold over all weights.

A step with a Pruner against the same step without, in turns in one process, on one thread; and the choice of the
lowest 80 % of 50 million scores against `torch.kthvalue` and `torch.topk` on one vector, each in a process of its own,
with the memory that it adds.

    python benchmarks/pruning.py             everything
    python benchmarks/pruning.py steps       steps alone
    python benchmarks/pruning.py threshold   the threshold alone
"""

from __future__ import annotations

import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import Pruner, create
from kdcore.pruning.selection import Limits, Stock, global_counts, lowest

WEIGHTS = 50_000_000
LAYERS = 10
CUBIC = {"type": "cubic", "start": 0, "end": 100_000}
# Steps of a stage: masks are made in every hundredth, by default.
STEPS = 100_000
CASES: dict[str, dict[str, Any]] = {
    "masks alone": {"criterion": "magnitude", "pattern": "4x1", "schedule": {"type": "one_shot"}},
    "magnitude 1x1": {"criterion": "magnitude", "pattern": "1x1", "schedule": CUBIC},
    "snip_momentum 4x1": {"criterion": "snip_momentum", "pattern": "4x1", "schedule": CUBIC},
    "snip_momentum_block 4x1": {"criterion": "snip_momentum_block", "pattern": "4x1", "schedule": CUBIC},
    "retrain_free filter": {"criterion": "retrain_free", "pattern": "filter", "schedule": CUBIC},
    "snip 2:4": {"criterion": "snip", "pattern": "2:4", "target_sparsity": 0.5, "schedule": CUBIC},
}


class Transformer(nn.Module):
    """A classifier of sequences with 10 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 320)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(320, 8, 1280, batch_first=True), 8)
        self.head = nn.Linear(320, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each sequence."""
        found: Tensor = self.head(self.encoder(self.embedding(tokens)).mean(1))
        return found


def step(model: nn.Module, inputs: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def median_us(call: Callable[[], Any], rounds: int) -> float:
    """Return the median microseconds of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times)


def steps(name: str, model: nn.Module, inputs: Tensor, targets: Tensor, rounds: int) -> None:
    """Print the cost of each case as a part of the step: directly timed, since it is far below the step's own noise."""
    print(f"\n{name}: {sum(each.numel() for each in model.parameters()) / 1e6:.2f}M parameters")
    print(f"{'case':26}{'step us':>10}{'per step us':>13}{'making masks us':>17}{'every':>7}{'cost':>8}{'ratio':>8}")
    for case, group in CASES.items():
        pair = [copy.deepcopy(model) for _ in range(2)]
        optimizers = [torch.optim.SGD(each.parameters(), lr=1e-3, momentum=0.9) for each in pair]
        pruner = Pruner(pair[1], {"target_sparsity": 0.8, **group}, total_steps=STEPS, example_inputs=inputs[:2])
        every = pruner.schedules[0].every if pruner.schedules[0].count else STEPS
        for each, optimizer in zip(pair, optimizers, strict=True):
            step(each, inputs, targets, optimizer)
        pruner.before_optimizer()
        # Half of the way, between two makings of masks.
        pruner.step = STEPS // 2
        pruner.before_optimizer()
        pruner.step += 1
        handle = pruner.attach(optimizers[1])
        times: list[list[float]] = [[], []]
        for turn in range(rounds):
            for side in (0, 1) if turn % 2 else (1, 0):
                start = time.perf_counter()
                step(pair[side], inputs, targets, optimizers[side])
                times[side].append(time.perf_counter() - start)
                pruner.step = STEPS // 2 + 1
        handle.remove()
        plain = 1e6 * statistics.median(times[0])
        ratio = statistics.median(pruned / other for other, pruned in zip(*times, strict=True))
        each_step = median_us(pruner.before_optimizer, rounds) + median_us(pruner.apply, rounds)

        def make_masks(pruner: Pruner = pruner) -> None:
            pruner.step = STEPS // 2
            pruner.before_optimizer()

        masks = median_us(make_masks, max(3, rounds // 10)) if every < STEPS else 0.0
        cost = (each_step + masks / every) / plain
        print(f"{case:26}{plain:10.0f}{each_step:13.0f}{masks:17.0f}{every:7}{cost:8.2%}{ratio:8.3f}")


def threshold(which: str) -> None:
    """Print the seconds and the additional mebibytes of one way to choose."""
    generator = torch.Generator().manual_seed(0)
    scores = list(torch.rand(WEIGHTS, generator=generator).split(WEIGHTS // LAYERS))  # type: ignore[no-untyped-call]
    vector, keep = torch.cat(scores) if "torch" in which else torch.empty(0), WEIGHTS // 5
    stocks = [Stock(WEIGHTS // LAYERS, 1, WEIGHTS // LAYERS)] * LAYERS
    limits = Limits.of(stocks, 0.8, 0.0, 0.98, final=True)
    if which == "one layer at its maximum":
        scores[0] *= 0.1

    def ours() -> None:
        counts, found = global_counts(scores, stocks, 0.8, limits)
        if which == "with masks":
            for each, count in zip(scores, counts, strict=True):
                lowest(each, count, found)

    calls: dict[str, Callable[[], Any]] = {
        "torch.kthvalue": lambda: torch.kthvalue(vector, WEIGHTS - keep),
        "torch.topk": lambda: torch.topk(vector, keep, sorted=False),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    calls.get(which, ours)()
    seconds = time.perf_counter() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{which:28}{seconds:9.2f} s{added:9.0f} MiB")


def main() -> None:
    wanted = sys.argv[1:2]
    torch.set_num_threads(1)
    if sys.argv[2:]:
        threshold(sys.argv[2])
        return
    # First, while this process is small: its peak memory counts as that of those it starts.
    if wanted != ["steps"]:
        print(f"the lowest 80 % of {WEIGHTS / 1e6:.0f}M scores in {LAYERS} layers, {4 * WEIGHTS / 2**20:.0f} MiB")
        for which in ("torch.kthvalue", "torch.topk", "counts", "one layer at its maximum", "with masks"):
            subprocess.run([sys.executable, __file__, "threshold", which], check=True)  # noqa: S603 - this very file
    if wanted != ["threshold"]:
        torch.manual_seed(0)
        cnn = create("model", "digits_cnn", width=16)
        steps("digits_cnn", cnn, torch.randn(64, 1, 8, 8), torch.randint(10, (64,)), 301)
        steps("transformer", Transformer(), torch.randint(1000, (16, 64)), torch.randint(10, (16,)), 7)


if __name__ == "__main__":
    main()
