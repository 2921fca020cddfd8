"""Trains with one or several processes, started by torchrun, and writes the trained weights."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import lightning.pytorch as lightning
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

import kdcore
from kdcore.integrations.lightning import DistillationModule
from kdcore.integrations.transformers import DistillationTrainer

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "digits")]

CONFIG = """
version: 1
models: {teacher: {inputs: [batch:x]}, student: {inputs: [batch:x]}}
adapters:
  widen: {type: linear, inputs: {x: "student:0"}, like: "teacher:0"}
stages:
  - name: only
    train: [student, widen]
    losses:
      ce: {type: cross_entropy, params: {reduction: tokens}, inputs: {target: batch:labels}}
      kd: {type: kd, params: {reduction: tokens}, inputs: {mask: batch:mask}}
      hint: {type: mse, weight: 0.5, inputs: {input: widen, target: "teacher:0"}}
"""


def data(count: int = 24) -> list[dict[str, torch.Tensor]]:
    """Return sequences with uneven numbers of labels, all of them in one length."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count):
        labels = torch.randint(3, (6,), generator=generator)
        labels[: index % 6] = -100
        rows.append({"x": torch.randn(6, 5, generator=generator), "labels": labels, "mask": labels != -100})
    return rows


def models() -> dict[str, nn.Module]:
    """Return a student and a teacher, the same in every process."""
    torch.manual_seed(0)
    return {
        name: nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
        for name, width in (("student", 4), ("teacher", 8))
    }


def by_accelerate(batch_size: int, accumulate: int) -> kdcore.Objective:
    """Train with the loop of the example."""
    distill = runpy.run_path(str(ROOT / "examples" / "digits" / "own_accelerate.py"))["distill"]
    loader = DataLoader(data(), batch_size)
    objective = kdcore.build_objective(CONFIG, models=models(), example_batch=next(iter(loader)))
    distill(Accelerator(cpu=True), objective, loader, 4, accumulate)
    return objective


def by_trainer(batch_size: int, accumulate: int, folder: str) -> kdcore.Objective:
    """Train with the Trainer of Transformers, and evaluate."""
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        max_steps=4,
        learning_rate=0.1,
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=1,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    made = models()
    trainer = DistillationTrainer(
        made["student"],
        arguments,
        distillation=CONFIG,
        teacher=made["teacher"],
        train_dataset=data(),
        eval_dataset=data(8),
        data_collator=torch.utils.data.default_collate,
    )
    trainer.train()
    found = trainer.evaluate()
    if trainer.is_world_process_zero():
        logs = [entry for entry in trainer.state.log_history if "ce" in entry]
        figures = [[entry[key] for key in ("loss", "ce", "kd", "hint")] for entry in logs]
        figures.append([found[f"eval_{key}"] for key in ("loss", "ce", "kd", "hint")])
        torch.save(torch.tensor(figures), Path(folder) / "figures.pt")
    return trainer.objective


def by_lightning(batch_size: int, folder: str) -> dict[str, torch.Tensor]:
    """Train with a Trainer of Lightning, and evaluate."""
    processes, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    loaders = [
        # Lightning's own sampler for several processes would shuffle.
        DataLoader(each, batch_size, sampler=DistributedSampler(each, processes, rank, shuffle=False))
        for each in (data(), data(8))
    ]
    objective = kdcore.build_objective(CONFIG, models=models(), example_batch=next(iter(loaders[0])))
    module = DistillationModule(objective, lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
    }
    strategy = {"strategy": "ddp" if processes > 1 else "auto", "devices": processes, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=1, default_root_dir=folder, **strategy, **quiet)
    trainer.fit(module, *loaders)
    validated = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    assert len(validated) == 4
    return {**objective.state_dict(), **validated}


if __name__ == "__main__":
    batch_size, accumulate, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    states = {
        "accelerate": by_accelerate(batch_size, accumulate).state_dict(),
        "trainer": by_trainer(batch_size, accumulate, folder).state_dict(),
        # Lightning averages what it accumulates, so it is given the batches whole.
        "lightning": by_lightning(batch_size * accumulate, folder),
    }
    torch.save(states, Path(folder) / f"{os.environ['RANK']}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
