"""Runs that one process makes with batches of a whole step, and several processes with their parts of these."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from kdcore import build_objective
from kdcore.collective import gather, gather_with_gradient, own_rows, process_count, process_rank, sum_over_processes
from kdcore.component import Input
from kdcore.config.load import load_config
from kdcore.engine.interrupt import Interrupted
from kdcore.engine.processes import held
from kdcore.engine.pruning import StagePruning
from kdcore.engine.run import run
from kdcore.engine.sharded import Sharded
from kdcore.errors import KdcoreError
from kdcore.pipeline.objective import Objective
from kdcore.plugins import Registry

# As much as the largest number of processes takes in a step: a multiple of all numbers that are compared.
WHOLE = 16

BASE = """\
version: 1
name: {name}
output_dir: {folder}
data:
  train: {{type: points, params: {{length: {length}}}, batch_size: {batch}, shuffle: true}}
  val: {{type: points, params: {{length: 21}}, batch_size: {half}}}
  test: {{type: points, params: {{length: 13}}, batch_size: {half}}}
models:
  teacher: {{type: net, params: {{width: 8}}, weights: as_built}}
  student: {{type: net}}
adapters:
  proj: {{type: linear, inputs: {{x: student:body}}, like: teacher:body}}
stages:
  - name: first
    epochs: 2
    train: [student]
    losses: {{ce: cross_entropy}}
    optimizer: {{type: SGD, params: {{lr: 0.1}}}}
  - name: second
    epochs: 3
    train: [student]
    start: {{student: first}}
    losses:
      ce: {{type: cross_entropy, weight: 0.1}}
      kd: {{type: kd, weight: 0.9}}
    optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
    scheduler: {{type: CosineAnnealingLR, interval: step}}
    best: {{metric: val/loss}}
"""

HINT = (
    "stages.second.train=[student, proj]",
    "stages.second.losses.hint={type: mse, inputs: {input: proj, target: teacher:body}}",
)
CASES: dict[str, tuple[str, ...]] = {
    "kd": (),
    "at": ("stages.second.losses.at={type: at, weight: 10, inputs: {student: student:conv, teacher: teacher:conv}}",),
    "own_parameters": (*HINT, "stages.second.balancer=uncertainty", "stages.second.optimizer.type=AdamW",
                       "stages.second.optimizer.params={lr: 0.01}"),
    "accumulated": (*HINT, "stages.second.accumulate=2", "stages.second.clip_grad_norm=0.1"),
    "positions": ("data.train.params.sequence=true", "data.val.params.sequence=true", "data.test.params.sequence=true",
                  "models.teacher.params.sequence=true", "models.student.params.sequence=true", "stages.second.accumulate=2",
                  "stages.first.losses.ce={type: cross_entropy, params: {reduction: tokens}}",
                  "stages.second.losses.ce={type: cross_entropy, params: {reduction: tokens}}",
                  "stages.second.losses.kd={type: kd, params: {reduction: tokens}, inputs: {mask: batch:mask}}"),
    "one_left": ("data.train.params.length=33",),
    "drop_last": ("data.train.drop_last=true",),
    "replacement": ("data.train.shuffle=false", "data.train.sampler=replacement"),
    "balanced": ("data.train.shuffle=false", "data.train.sampler=balanced"),
    "own_batches": ("data.train.type=chosen", "data.train.shuffle=false"),
    "workers": ("data.train.num_workers=1", "data.val.num_workers=1"),
    "skipped": ("stages.second.losses.odd={type: odd, inputs: {input: student, index: batch:index}}",
                "stages.second.on_nonfinite=lower_rate"),
    "skipped_accumulated": ("stages.second.losses.odd={type: odd, inputs: {input: student, index: batch:index}}",
                            "stages.second.on_nonfinite=skip", "stages.second.accumulate=2"),
    "skipped_across": ("stages.second.losses.across={type: across, inputs: {student: student, teacher: teacher}}",
                       "stages.second.losses.odd={type: odd, inputs: {input: student, index: batch:index}}",
                       "stages.second.on_nonfinite=skip", "data.train.params.length=33"),
    "across": ("stages.second.losses.across={type: across, inputs: {student: student, teacher: teacher}}",
               "data.train.params.length=33"),
    "unreached": ("stages.second.losses.ce.enabled=false", "stages.second.losses.kd.enabled=false",
                  "stages.second.losses.mid={type: mse, inputs: {input: student:conv, target: batch:map}}",
                  "stages.second.metrics={models: []}"),
    "find_unused": ("stages.second.losses.ce.enabled=false", "stages.second.losses.kd.enabled=false",
                    "stages.second.losses.mid={type: mse, inputs: {input: student:conv, target: batch:map}}",
                    "stages.second.metrics={models: []}", "stages.second.find_unused=true"),
    "bfloat16": ("stages.second.precision=bfloat16",),
    "pruned": ("stages.second.pruning={criterion: snip_momentum, pattern: 4x1, target_sparsity: 0.5, scope: local}",
               "stages.second.accumulate=2"),
    "pruned_filters": ("stages.second.pruning={criterion: {type: random}, pattern: filter, target_sparsity: 0.5}",),
}  # fmt: skip

INPUT = "inputs: {input: student:layers.2@input, target: teacher:layers.2@input}"
INSIDE = "inputs: {input: student:layers.0.inner, target: teacher:layers.0.inner}"
# The case without sharding that each must agree with, and what is sharded apart.
SHARDED: dict[str, tuple[tuple[str, ...], str]] = {
    "sharded_own_parameters": (CASES["own_parameters"], "student.body"),
    "sharded_accumulated": (CASES["accumulated"], "student.body, student.fc"),
    "sharded_skipped": (CASES["skipped"], ""),
    "sharded_across": (CASES["across"], "student"),
    "sharded_unreached": (CASES["unreached"], "student.conv"),
    "sharded_find_unused": (CASES["find_unused"], "student.fc"),
    "sharded_bfloat16": (CASES["bfloat16"], "student.body"),
    # The first stage's pass ends before a block, the second looks inside one.
    "sharded_blocks": (("models.student.type=stack", "models.teacher.type=stack", "models.student.params.width=8",
                        "stages.first.losses.ce={type: cross_entropy, enabled: false}", "stages.first.metrics={models: []}",
                        f"stages.first.losses.before={{type: mse, {INPUT}}}",
                        f"stages.second.losses.inside={{type: mse, {INSIDE}}}"),
                       "student.layers.*, student.layers.*.inner.0"),
}  # fmt: skip


def sharded(blocks: str) -> str:
    return f"distributed={{strategy: fsdp, shard: [{blocks}]}}"


class Points:
    """Images of noise, some with uneven numbers of labelled positions; classes are uneven too."""

    num_classes = 3

    def __init__(self, length: int, sequence: bool = False) -> None:
        generator = torch.Generator().manual_seed(length)
        self.x = torch.randn(length, 1, 4, 4, generator=generator)
        self.map = torch.randn(length, 4, 4, 4, generator=generator)
        self.targets = torch.randint(3, (length,), generator=generator)
        self.random, self.sequence = False, sequence
        labels = torch.randint(3, (length, 4), generator=generator)
        self.labels = labels.masked_fill(torch.arange(4) >= 1 + torch.arange(length)[:, None] % 4, -100)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = self.labels[index] if self.sequence else self.targets[index]
        return {"input": self.x[index], "target": target, "map": self.map[index], "mask": target != -100}


class Chosen(Points):
    """Chooses its batches itself: neighbours together, the last ones first."""

    def batches(self, batch_size: int, generator: torch.Generator) -> list[list[int]]:
        order = torch.arange(len(self)).roll(int(torch.randint(len(self), (), generator=generator)))
        return [each.tolist() for each in order.split(batch_size)][::-1]


class Net(nn.Module):
    """A convolution, a hidden layer and a head; one output per sample, or per position of a sequence."""

    def __init__(self, width: int = 4, sequence: bool = False) -> None:
        super().__init__()
        self.sequence = sequence
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Linear(16 if sequence else 64, width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).flatten(2)
        x = x.transpose(1, 2).unflatten(1, (4, 4)).flatten(2) if self.sequence else x.flatten(1)
        return self.fc(torch.relu(self.body(x)))


class Layer(nn.Module):
    """A residual layer of two parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class Stack(nn.Module):
    """Three layers, one after the other."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Linear(16, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(3))
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.flatten(1))
        for layer in self.layers:
            x = layer(x)
        return self.fc(x)


class Odd(nn.Module):
    """Is not a number in a few steps, on the sample 5 alone."""

    training_only = True

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.step = step

    def forward(self, input: Tensor, index: Tensor) -> Tensor:
        broken = torch.where(index == 5, torch.nan, 1.0) if self.step in range(1, 10) else torch.ones(len(index))
        return (input.square().mean(1) * broken).mean()


class Across(nn.Module):
    """Compares all samples of a step with one another, and has a parameter and a memory of its own."""

    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("memory", torch.zeros(3))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        mine, wanted = gather_with_gradient(student), gather(teacher)
        if self.training and torch.is_grad_enabled():
            self.memory.lerp_(gather(student).mean(0), 0.5)
        return F.mse_loss(self.scale * mine @ mine.T + self.memory.sum(), wanted @ wanted.T)


def registry() -> Registry:
    """Return what is installed, and the toys."""
    found = Registry.discover()
    found.register("dataset", "points", Points)
    found.register("dataset", "chosen", Chosen)
    found.register("model", "net", Net)
    found.register("model", "stack", Stack)
    found.register("loss", "odd", Odd, inputs=[Input("input"), Input("index")])
    found.register("loss", "across", Across, inputs=[Input("student"), Input("teacher")])
    return found


def make(folder: Path, name: str, *overrides: str, processes: int = 1, **options: Any) -> Path:
    """Run the config; each of `processes` takes its part of a batch."""
    plugins = registry()
    text = BASE.format(folder=folder, name=name, length=50, batch=WHOLE // processes, half=8 // processes)
    config = load_config(text, overrides=overrides, plugins=plugins)
    return run(config, registry=plugins, **{"quiet": True, **options})


DROPOUT = ("models.student.type=dropped", "checkpoints.every_steps=2")


class Dropped(Net):
    """Draws random numbers, and normalises by the statistics of its process."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(self.norm(x)), 0.3, self.training)


class Signalling(nn.Module):
    """Sends a signal to the last process alone, once, in one step."""

    at = -1
    training_only = True

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        if step == type(self).at and process_rank() == process_count() - 1:
            type(self).at = -1
            os.kill(os.getpid(), signal.SIGTERM)

    def forward(self, input: Tensor) -> Tensor:
        return input.mean() * 0


def resumed(folder: Path, *overrides: str) -> tuple[Path, Path, list[str]]:
    """Make one run without a stop and one that signals end twice; returns both, and what the signals left."""
    plugins = registry()
    plugins.register("model", "dropped", Dropped)
    plugins.register("loss", "signalling", Signalling, inputs=[Input("input")])
    text = BASE.format(folder=folder, name="resumed", length=50, batch=4, half=4)
    losses = [
        f"stages.{each}.losses.z={{type: signalling, inputs: {{input: student}}}}" for each in ("first", "second")
    ]
    config = load_config(text, overrides=(*DROPOUT, *losses, *overrides), plugins=plugins)
    whole = run(config, registry=plugins, quiet=True)
    advice, found = [], None
    for step in (5, 9, -1):
        Signalling.at = step
        try:
            found = run(config, registry=plugins, quiet=True, resume=found)
        except Interrupted as signal_:
            advice.append(signal_.advice)
            found = Path(signal_.advice.split("resume='")[1].split("'")[0])
    assert found is not None
    return whole, found, advice


def collectives() -> dict[str, Any]:
    """Gather uneven rows, and differentiate through them."""
    rank, count = process_rank(), process_count()
    everything = torch.arange(10.0).view(5, 2)
    parts = everything.split([3, 2]) if count == 2 else (everything,)
    own = parts[rank].clone().requires_grad_()
    gathered = gather_with_gradient(own)
    (gathered @ gathered.T).sin().sum().backward()
    where = own_rows(len(own))
    return {
        "gathered": gathered.detach(),
        "plain": gather(own),
        "own": gathered.detach()[where],
        "mine": own.detach(),
        "sum": sum_over_processes(torch.tensor([1.0, rank])),
        "gradient": own.grad,
        "needs": torch.tensor(gather(own).requires_grad),
    }


OWN_LOOP = """
version: 1
models: {teacher: {}, student: {}}
adapters:
  proj: {type: linear, inputs: {x: student:body}, like: teacher:body}
stages:
  - name: only
    train: [student, proj]
    losses:
      ce: cross_entropy
      kd: kd
      hint: {type: mse, weight: 0.5, inputs: {input: proj, target: teacher:body}}
    balancer: uncertainty
"""


def own_loop() -> dict[str, Tensor]:
    """Train an Objective in a loop of one's own; several processes shard it, and itself is the root."""
    points = Points(WHOLE)
    whole = {"input": points.x, "target": points.targets}
    models = {}
    for name, width in (("student", 4), ("teacher", 8)):
        torch.manual_seed(width)
        models[name] = Net(width)
    objective = build_objective(OWN_LOOP, models=models, example_batch=whole)
    if process_count() > 1:
        mesh = init_device_mesh("cpu", (process_count(),))
        for module in (models["student"].body, models["student"].fc):
            fully_shard(module, mesh=mesh)
        fully_shard(objective, mesh=mesh)
    rows = WHOLE // process_count()
    part = slice(rows * process_rank(), rows * (process_rank() + 1))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.01)
    for _ in range(4):
        objective({name: value[part] for name, value in whole.items()}).total.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    state = objective.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def held_parts(folder: Path) -> list[tuple[int, int]]:
    """Run two stages sharded and return, for each, how many numbers of all this process holds."""
    parts = []
    learner = Sharded.learner

    def measured(self: Sharded, objective: Objective, *others: Any) -> Any:
        each = list(objective.parameters())
        parts.append((sum(held(parameter).numel() for parameter in each), sum(map(Tensor.numel, each))))
        return learner(self, objective, *others)

    with mock.patch.object(Sharded, "learner", measured):
        make(folder, "held", *HINT, sharded("student.body"), processes=process_count())
    return parts


def masks(folder: Path) -> dict[str, Tensor]:
    """Prune by gradients of uneven batches and return the masks that this process ends with."""
    found: dict[str, Tensor] = {}
    summary = StagePruning.summary

    def kept(self: StagePruning) -> dict[str, Any]:
        found.update((part.name, part.mask.clone()) for layer in self.pruner.layers for part in layer.parts)
        return summary(self)

    with mock.patch.object(StagePruning, "summary", kept):
        make(folder, "masks", *CASES["pruned"], "data.train.params.length=33", processes=process_count())
    return found


def main(folder: Path) -> None:
    """Run every case, and leave what the test looks at."""
    count, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    folders = {name: str(make(folder, name, *overrides, processes=count)) for name, overrides in CASES.items()}
    for name, (overrides, blocks) in SHARDED.items():
        folders[name] = str(make(folder, name, *overrides, sharded(blocks), processes=count))
    whole, again, advice = resumed(folder / "resumed")
    adam = ("stages.first.optimizer={type: AdamW, params: {lr: 0.01}}", sharded("student.body"))
    resumed_sharded = [str(each) for each in resumed(folder / "resumed_sharded", *adam)[:2]]
    try:
        make(folder, "refused", "device=cpu:0", processes=count)
    except KdcoreError as error:
        refused = str(error)
    found = {
        "folders": folders, "whole": str(whole), "again": str(again), "advice": advice, "refused": refused,
        "collectives": collectives(), "own_loop": own_loop(), "resumed_sharded": resumed_sharded,
        "held": held_parts(folder), "masks": masks(folder),
    }  # fmt: skip
    # Last, for there is no going on from it: the second process has the sample, then all weights are NaN.
    slow = ("stages.first.epochs=1", "data.train.shuffle=false", "data.train.batch_size=1")
    try:
        make(folder, "diverged", *CASES["skipped"][:1], *slow, processes=count)
    except KdcoreError as error:
        found["diverged"] = str(error)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
