"""What a teacher cache costs and saves, against a student alone and against one file per sample.

Both sides run in one process, in turns, on one thread; what counts is the process's CPU time, so that other work on
the machine matters little. Quote the ratios.

    python benchmarks/cache.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from kdcore.address import Address
from kdcore.config.config import CacheConfig, Config
from kdcore.config.load import load_config
from kdcore.engine.cache.caches import StageCaches
from kdcore.engine.cache.store import Store
from kdcore.engine.data import Datasets
from kdcore.engine.progress import make_progress
from kdcore.engine.stage import StageLoaders, wire_stage
from kdcore.engine.steps import make_optimizer
from kdcore.engine.trainer import Trainer
from kdcore.pipeline.assembly import Assembly
from kdcore.plugins import Registry

SAMPLES, CLASSES, BATCH = 1024, 100, 64
ROUNDS = 7
CPU = torch.device("cpu")

CONFIG = """
version: 1
output_dir: {folder}
data:
  train: {{type: random_images, batch_size: 64, shuffle: true}}
models:
  teacher: {{type: cnn, params: {{width: 32}}, weights: as_built, cache: {cache}}}
  student: {{type: cnn, params: {{width: {width}}}}}
adapters:
  proj: {{type: conv1x1, inputs: {{x: student:block2}}, like: teacher:block2}}
stages:
  - name: distill
    epochs: 1
    train: [student, proj]
    losses:
      ce: {{type: cross_entropy, weight: 0.1}}
      kd: {{type: kd, weight: 0.9, inputs: {{teacher: {logits}}}}}
      hint: {{type: mse, enabled: {hint}, inputs: {{input: proj, target: {features}}}}}
    metrics: {{models: []}}
    optimizer: {{type: SGD, params: {{lr: 0.01, momentum: 0.9}}}}
"""


class CNN(nn.Module):
    """Three blocks and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = (
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.fc = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, 3, 32, 32)."""
        logits: Tensor = self.fc(self.block3(self.block2(self.block1(x))).mean((2, 3)))
        return logits


class RandomImages(Dataset[dict[str, Tensor]]):
    """Noise in memory, and what a teacher might make of it."""

    random = False

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(SAMPLES, 3, 32, 32, generator=generator)
        self.logits = torch.randn(SAMPLES, CLASSES, generator=generator)
        self.features = torch.randn(SAMPLES, 64, 8, 8, generator=generator)
        self.targets = torch.randint(CLASSES, (SAMPLES,), generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self.images[index], "target": self.targets[index]}


class WithTargets(RandomImages):
    """The same, with a teacher's part that costs nothing."""

    def collate(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack the samples and add views of some logits and features."""
        count = len(samples)
        return {**default_collate(samples), "logits": self.logits[:count], "features": self.features[:count]}


def registry() -> Registry:
    """Return the installed plugins with model and data of this script."""
    made = Registry.discover()
    made.register("model", "cnn", CNN)
    made.register("dataset", "random_images", RandomImages)
    made.register("dataset", "with_targets", WithTargets)
    return made


def trainer(config: Config) -> Trainer:
    """Wire the only stage as a run does."""
    (stage,) = config.stages
    assembly, loaders = Assembly.build(config, CPU), StageLoaders(config, stage, Datasets(config.data))
    objective = wire_stage(stage, assembly, loaders, CPU)[0].objective
    StageCaches(config, stage, assembly, loaders.by_role, objective).use("train")
    optimizer, scheduler = make_optimizer(config, stage, objective, loaders.train)
    return Trainer(stage, objective, loaders.train, optimizer, scheduler, CPU, make_progress(quiet=True))


def epoch_seconds(trainer: Trainer) -> float:
    """Return how long an epoch takes."""
    start = time.process_time()
    trainer.epoch(1, {})
    return time.process_time() - start


def interleaved(sides: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Return the best time of each side, all of them taking turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(side())
    return {name: min(each) for name, each in times.items()}


def training(folder: Path, width: int, *, hint: bool) -> None:
    """Compare epochs: targets from memory (a student alone), from caches, and from the teacher itself."""
    plugins = registry()

    def made(*overrides: str, cache: str, logits: str, features: str) -> Trainer:
        names = {"folder": folder / f"{width}{hint}", "width": width, "hint": str(hint).lower()}
        text = CONFIG.format(**names, cache=cache, logits=logits, features=features)
        if not hint:
            text = text.replace("train: [student, proj]", "train: [student]")
        return trainer(load_config(text, overrides=overrides, plugins=plugins))

    frozen = {"logits": "teacher", "features": "teacher:block2"}
    trainers = {
        "alone": made("data.train.type=with_targets", cache="false", logits="batch:logits", features="batch:features"),
        "cached": made(cache="true", **frozen),
        "int8": made(cache="{dtype: int8}", **frozen),
        "running": made(cache="false", **frozen),
    }
    for each in trainers.values():
        each.epoch(0, {})
    best = interleaved({name: partial(epoch_seconds, each) for name, each in trainers.items()})
    steps = SAMPLES // BATCH
    print(
        f"student of width {width}, {'logits and a feature map of 16 kB' if hint else 'logits'}: "
        f"alone {1000 * best['alone'] / steps:.2f} ms per step; cached at {best['alone'] / best['cached']:.0%} "
        f"of that speed, as int8 at {best['alone'] / best['int8']:.0%}, "
        f"with the teacher running at {best['alone'] / best['running']:.0%}"
    )


def reading(folder: Path) -> None:
    """Compare reading random batches of logits with loading one torch.save file per sample."""
    logits, teacher, samples = torch.randn(4096, CLASSES), Address("teacher"), 4096
    (folder / "files").mkdir(parents=True)
    for index, row in enumerate(logits):
        torch.save(row.clone(), folder / "files" / f"{index}.pt")
    sizes = [file.stat() for file in (folder / "files").iterdir()]
    length, room = sum(each.st_size for each in sizes), 512 * sum(each.st_blocks for each in sizes)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0)).split(BATCH)  # type: ignore[no-untyped-call]

    def files() -> float:
        start = time.process_time()
        for batch in order:
            torch.stack([torch.load(folder / "files" / f"{index}.pt") for index in batch.tolist()])
        return time.process_time() - start

    for name, config in (
        ("as it is", CacheConfig()),
        ("float16", CacheConfig(dtype="float16")),
        ("int8", CacheConfig(dtype="int8")),
        ("top_k: 10, float16", CacheConfig(dtype="float16", top_k=10)),
    ):
        (folder / name).mkdir()
        options = {"samples": samples, "rows_per_sample": 1, "device": CPU, "tell": print}
        store = Store(folder / name, [teacher], config, **options)  # type: ignore[arg-type]
        parts = (each.split(BATCH) for each in (torch.arange(samples), logits))  # type: ignore[no-untyped-call]
        for indices, rows in zip(*parts, strict=True):
            store.store(indices, {teacher: rows})

        def read(store: Store = store) -> float:
            start = time.process_time()
            for batch in order:
                store.read(batch)
            return time.process_time() - start

        best = interleaved({"files": files, "cache": read})
        faster, size = best["files"] / best["cache"], store.nbytes
        print(
            f"{CLASSES} classes, {name}: {samples / best['cache']:,.0f} samples/s, "
            f"{faster:.0f} times those of one file per sample; {size / samples:.0f} bytes each, "
            f"1/{length / size:.1f} of the files' length, 1/{room / size:.0f} of their room on disk"
        )


def main() -> None:
    """Run all comparisons."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for width in (4, 16):
            for hint in (False, True):
                training(Path(folder), width, hint=hint)
        reading(Path(folder) / "reading")


if __name__ == "__main__":
    main()
