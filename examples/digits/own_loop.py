"""Your own models and your own loop; kdcore only provides the objective, described in own_loop.yaml.

python examples/digits/own_loop.py
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import kdcore

Batch = Mapping[str, Tensor]
Loader = DataLoader[dict[str, Tensor]]

CONFIG = Path(__file__).with_name("own_loop.yaml")


class Net(nn.Module):
    """A small convolutional network; nothing in it knows of kdcore."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*block(1, width, 1), *block(width, 2 * width, 2), *block(2 * width, 4 * width, 2))
        self.classifier = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 10) for images (B, 1, 8, 8)."""
        return self.classifier(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]


def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Return a convolution with what follows it."""
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def fit(module: nn.Module, loss: Callable[[Batch], Tensor], loader: Loader, steps: int) -> None:
    """Train the parameters of `module`: a loop like any other."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for batch in islice(chain.from_iterable(repeat(loader)), steps):
        loss(batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def labels(model: nn.Module) -> Callable[[Batch], Tensor]:
    """Return the loss of a model that learns from labels alone."""
    return lambda batch: F.cross_entropy(model(batch["input"]), batch["target"])


def accuracy(model: nn.Module, loader: Loader) -> float:
    """Return the share of right answers."""
    model.eval()
    with torch.no_grad():
        right = [model(batch["input"]).argmax(-1) == batch["target"] for batch in loader]
    return torch.cat(right).float().mean().item()


def objective_of(teacher: nn.Module, student: nn.Module, loader: Loader) -> kdcore.Objective:
    """Return the objective of own_loop.yaml; raises kdcore.KdcoreError for a mistake in it."""
    models = {"teacher": teacher, "student": student}
    return kdcore.build_objective(CONFIG, models=models, example_batch=next(iter(loader)))


def main() -> None:
    """Train a teacher, a student alone and the same student distilled."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each training (default 150)")
    options = parser.parse_args()

    train = DataLoader(kdcore.create("dataset", "digits", split="train"), batch_size=64, shuffle=True)
    few = DataLoader(kdcore.create("dataset", "digits", split="train", samples_per_class=20), 32, shuffle=True)
    test = DataLoader(kdcore.create("dataset", "digits", split="test"), batch_size=512)

    # Models as large as those below, so that a mistake in the config shows before any of them has trained.
    objective_of(Net(16), Net(4), few).close()
    torch.manual_seed(options.seed)
    teacher, student = Net(16), Net(4)
    alone = copy.deepcopy(student)
    fit(teacher, labels(teacher), train, options.steps)
    fit(alone, labels(alone), few, options.steps)

    objective = objective_of(teacher, student, few)
    fit(objective, lambda batch: objective(batch).total, few, options.steps)

    results = {"teacher": teacher, "student alone": alone, "student distilled": objective.export_student()}
    for name, model in results.items():
        print(f"{name:20}{100 * accuracy(model, test):.1f} %")


if __name__ == "__main__":
    try:
        main()
    except kdcore.KdcoreError as error:
        sys.exit(str(error))
