"""What a forward pass costs that stops at the last module needed, against a model cut off there.

Both sides train on the same loss, in one process, in turns, on one thread; quote the ratio.

    python benchmarks/early_stop.py
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import build_objective, load_config

CONFIG = """
version: 1
models: {student: {}, teacher: {}}
stages:
  - name: hint
    train: [student]
    losses:
      hint: {type: mse, inputs: {input: "student:1", target: "teacher:1"}}
"""
ROUNDS = 31


def block(inputs: int, outputs: int) -> nn.Module:
    """Return convolution, batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def network(width: int) -> nn.Sequential:
    """Return eight blocks, of which the loss looks at the second."""
    return nn.Sequential(block(3, width), *(block(width, width) for _ in range(7)))


def truncated(student: nn.Sequential, teacher: nn.Sequential, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Return a step of the two models cut off after the second block."""
    short_student, short_teacher = student[:2].train(), teacher[:2].eval()

    def step() -> None:
        with torch.no_grad():
            target = short_teacher(batch["input"])
        F.mse_loss(short_student(batch["input"]), target).backward()  # type: ignore[no-untyped-call]

    return step


def stopping(student: nn.Sequential, teacher: nn.Sequential, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Return the same step of the whole models, stopped by kdcore."""
    config = load_config(CONFIG, external_models=())
    objective = build_objective(config, models={"student": student, "teacher": teacher}, example_batch=batch)

    def step() -> None:
        objective(batch).total.backward()

    return step


def main() -> None:
    """Print the ratio."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = network(16), network(16)
    batch = {"input": torch.randn(16, 3, 32, 32)}
    sides = truncated(*copy.deepcopy(models), batch), stopping(*copy.deepcopy(models), batch)
    times: list[list[float]] = [[], []]
    for turn in range(ROUNDS + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            sides[which]()
            if turn:
                times[which].append(time.perf_counter() - start)
    ratios = sorted(ours / theirs for theirs, ours in zip(*times, strict=True))
    print(
        f"stopped at block 2 of 8: truncated {1e3 * statistics.median(times[0]):.2f} ms, ratio "
        f"{statistics.median(ratios):.3f} (middle half {ratios[ROUNDS // 4]:.3f} to {ratios[3 * ROUNDS // 4]:.3f})"
    )


if __name__ == "__main__":
    main()
