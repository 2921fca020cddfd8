"""What one step costs through the Objective and the loop, against a hand-written loop with the same math.

Both sides run in one process, in turns, on one thread; quote the ratio and the extra microseconds.

    python benchmarks/step.py
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore import build_objective, create, load_config
from kdcore.engine.progress import make_progress
from kdcore.engine.trainer import Trainer

CONFIG = """
version: 1
models: {student: {}, teacher: {}}
stages:
  - name: distill
    epochs: 1
    train: [student]
    losses:
      ce: {type: cross_entropy, weight: 0.1}
      kd: {type: kd, weight: 0.9, params: {temperature: 4}}
    metrics: {models: []}
"""
ROUNDS = 21


class Batches:
    """A loader that costs nothing."""

    def __init__(self, batch: dict[str, Tensor], steps: int) -> None:
        self.batch = batch
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield one batch again and again."""
        return iter([self.batch] * self.steps)


Loss = Callable[[Tensor, Tensor], Tensor]


def textbook(student: Tensor, teacher: Tensor) -> Tensor:
    """Hinton's loss as most loops write it."""
    return 16 * F.kl_div(F.log_softmax(student / 4, -1), F.softmax(teacher / 4, -1), reduction="batchmean")


def by_hand(
    student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor], steps: int, losses: tuple[Loss, Loss]
) -> Callable[[], None]:
    """Return an epoch of the loop a careful user would write."""
    cross_entropy, distance = losses
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)
    teacher.requires_grad_(False).eval()

    def epoch() -> None:
        student.train()
        total = torch.zeros(())
        for _ in range(steps):
            with torch.no_grad():
                soft = teacher(batch["input"])
            logits = student(batch["input"])
            loss = 0.1 * cross_entropy(logits, batch["target"]) + 0.9 * distance(logits, soft)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()

    return epoch


def by_kdcore(student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor], steps: int) -> Callable[[], None]:
    """Return the same epoch through kdcore."""
    config = load_config(CONFIG, external_models=())
    objective = build_objective(config, models={"student": student, "teacher": teacher}, example_batch=batch)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)
    loader: Any = Batches(batch, steps)
    progress = make_progress(quiet=True)
    trainer = Trainer(config.stages[0], objective, loader, optimizer, None, torch.device("cpu"), progress)

    def epoch() -> None:
        trainer.epoch(0, {})

    return epoch


def compare(name: str, student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor], steps: int) -> None:
    """Print the ratios, from interleaved rounds."""
    same = create("loss", "cross_entropy"), create("loss", "kd", temperature=4.0)
    sides = {
        "kdcore": by_kdcore(*copy.deepcopy((student, teacher)), batch, steps),
        "the same loss modules": by_hand(*copy.deepcopy((student, teacher)), batch, steps, same),
        "torch.nn.functional": by_hand(*copy.deepcopy((student, teacher)), batch, steps, (F.cross_entropy, textbook)),
    }
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {key: [] for key in sides}
    for turn in range(ROUNDS):
        for key in sides if turn % 2 else reversed(sides):
            start = time.perf_counter()
            sides[key]()
            times[key].append((time.perf_counter() - start) / steps)
    ours = times.pop("kdcore")
    for key, theirs in times.items():
        ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
        extra = statistics.median(mine - other for mine, other in zip(ours, theirs, strict=True))
        middle = f"{ratios[ROUNDS // 4]:.3f} to {ratios[3 * ROUNDS // 4]:.3f}"
        print(
            f"{name} by hand with {key}: {1e3 * statistics.median(theirs):.3f} ms; kdcore's ratio "
            f"{statistics.median(ratios):.3f} (middle half {middle}), "
            f"{1e6 * extra:+.0f} us per step"
        )


def mlp(width: int) -> nn.Module:
    """Return a small perceptron."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def cnn(width: int) -> nn.Module:
    """Return a small convolutional network."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 16, 10))


def main() -> None:
    """Compare a tiny step and one of more than 20 ms."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny = {"input": torch.randn(32, 64), "target": torch.randint(10, (32,)), "index": torch.arange(32)}
    compare("tiny step ", mlp(32), mlp(64), tiny, 200)
    image = {"input": torch.randn(64, 3, 32, 32), "target": torch.randint(10, (64,)), "index": torch.arange(64)}
    compare("large step", cnn(16), cnn(32), image, 3)


if __name__ == "__main__":
    main()
