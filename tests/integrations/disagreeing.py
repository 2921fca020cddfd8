"""Begins to train with another teacher in each process, in every kind of loop, and writes what is said about it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

import kdcore
from kdcore.config.load import load_config
from kdcore.errors import KdcoreError
from kdcore.integrations.lightning import DistillationModule
from kdcore.integrations.transformers import DistillationTrainer
from kdcore.plugins import Registry

CONFIG = """
version: 1
models: {teacher: {}, student: {}}
stages:
  - {name: only, train: [student], losses: {kd: kd}}
"""
RUN = """
version: 1
name: disagreeing
device: cpu
data:
  train: {type: digits, params: {split: train, samples_per_class: 2}, batch_size: 4}
models:
  teacher: {type: own, weights: as_built}
  student: {type: digits_mlp, params: {width: 4}}
stages:
  - name: only
    epochs: 1
    train: [student]
    losses: {kd: kd}
    optimizer: {type: SGD, params: {lr: 0.1}}
"""
DATA = [{"input": torch.full((5,), index / 8), "target": index % 3} for index in range(8)]


def net(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))


def teacher() -> nn.Module:
    """Return a teacher of which one tensor is another in each process, as a head that no file holds would be."""
    made = net(8)
    with torch.no_grad():
        made[2].bias += int(os.environ["RANK"])
    return made


def objective() -> tuple[nn.Module, kdcore.Objective]:
    models = {"teacher": teacher(), "student": net(4)}
    batch = next(iter(DataLoader(DATA, 4)))
    return models["teacher"], kdcore.build_objective(CONFIG, models=models, example_batch=batch)


def by_hand() -> None:
    objective()[1].check_agreement()


def by_hand_repaired() -> None:
    made, built = objective()
    for tensor in made.state_dict().values():
        torch.distributed.broadcast(tensor, 0)
    built.check_agreement()
    assert torch.equal(made[2].bias, net(8)[2].bias)


def by_trainer(folder: Path) -> None:
    arguments = TrainingArguments(str(folder), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True)
    # Given apart from the student, whose weights differ too: those the first process sends.
    student = net(4, seed=int(os.environ["RANK"]))
    options = {"train_dataset": DATA, "data_collator": torch.utils.data.default_collate}
    trainer = DistillationTrainer(student, arguments, distillation=CONFIG, teacher=teacher(), **options)
    assert trainer.state.global_step == 0
    trainer.train()


def by_run(folder: Path) -> None:
    def own() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10).requires_grad_(False), Shift())

    plugins = Registry.discover()
    plugins.register("model", "own", own)
    kdcore.run(load_config(RUN, overrides=[f"output_dir={folder}"], plugins=plugins), registry=plugins, quiet=True)


class Shift(nn.Module):
    """Adds what each process has of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.tensor([float(os.environ["RANK"])]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.by


def by_lightning(folder: Path) -> None:
    module = DistillationModule(objective()[1], lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(strategy="ddp", devices=2, accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.fit(module, DataLoader(DATA, 4))


def said(train: Callable[[], None]) -> str:
    try:
        train()
    except KdcoreError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.distributed.init_process_group("gloo")
    found = {
        "hand": said(by_hand),
        "repaired": said(by_hand_repaired),
        "trainer": said(lambda: by_trainer(folder)),
        "run": said(lambda: by_run(folder)),
        "lightning": said(lambda: by_lightning(folder)),
    }
    found["folder"] = str((folder / "disagreeing").exists())
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
