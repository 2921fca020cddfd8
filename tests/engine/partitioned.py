"""Runs that two processes make with DeepSpeed, for the tests to compare with those of one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import distributed as runs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdcore.component import Input
from kdcore.config.config import StageConfig
from kdcore.config.load import load_config
from kdcore.engine.deepspeed import Partitioned
from kdcore.engine.interrupt import Interrupted
from kdcore.engine.run import run
from kdcore.engine.several import _channels
from kdcore.errors import KdcoreError
from kdcore.pipeline.objective import Objective

GROUPS = (
    *runs.HINT,
    "stages.second.optimizer={type: AdamW, params: {lr: 0.01}, groups: [{pattern: '*bias', params: {weight_decay: 0}}]}",
    "stages.second.scheduler.type=LinearLR",
)
# The case without DeepSpeed that each must agree with, and what DeepSpeed is given.
CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "kd": (runs.CASES["kd"], "stage: 1"),
    "kd_2": (runs.CASES["kd"], "stage: 2"),
    "at": (runs.CASES["at"], "stage: 2, overlap_comm: true"),
    "own_parameters": (runs.CASES["own_parameters"], "stage: 1"),
    "own_parameters_2": (runs.CASES["own_parameters"], "stage: 2, round_robin_gradients: true"),
    "groups": (GROUPS, "stage: 1"),
    "groups_2": (GROUPS, "stage: 2"),
    "accumulated": (runs.CASES["accumulated"], "stage: 1"),
    "accumulated_2": (runs.CASES["accumulated"], "stage: 2, contiguous_gradients: false"),
    "positions": (runs.CASES["positions"], "stage: 2"),
    "one_left": (runs.CASES["one_left"], "stage: 1"),
    "across": (runs.CASES["across"], "stage: 2"),
    "unreached": (runs.CASES["unreached"], "stage: 1"),
    "skipped": (runs.CASES["skipped"], "stage: 1"),
    "skipped_2": (runs.CASES["skipped"], "stage: 2"),
    "bfloat16": (runs.CASES["bfloat16"], "stage: 2"),
    "offloaded": (runs.CASES["own_parameters"], "stage: 2, offload_optimizer: {device: cpu}"),
}  # fmt: skip

ADAM = "stages.first.optimizer={type: AdamW, params: {lr: 0.01}}"


class Kink(nn.Module):
    """Is 0 and has a gradient that is not a number, from the third step on."""

    training_only = True

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def progress(self, step: int, total_steps: int, epoch: int) -> None:
        self.step = step

    def forward(self, input: Tensor) -> Tensor:
        return ((input * 0).abs().sqrt() if self.step > 1 else input * 0).mean()


def deepspeed(options: str) -> str:
    return f"distributed={{strategy: deepspeed, config: {{zero_optimization: {{{options}}}}}}}"


def given(folder: Path) -> list[tuple[list[str], int, int]]:
    """Run two stages; returns, for each, the parameters that DeepSpeed has, and how many numbers this process steps."""
    found = []
    learner = Partitioned.learner

    def looked_at(self: Partitioned, objective: Objective, optimizer: Optimizer, stage: StageConfig) -> Any:
        made: Any = learner(self, objective, optimizer, stage)
        names = [name.removeprefix("objective.") for name, _ in made.engine.module.named_parameters()]
        stepped = sum(part.numel() for group in optimizer.param_groups for part in group["params"])
        found.append((names, stepped, sum(each.numel() for each in objective.parameters())))
        return made

    with mock.patch.object(Partitioned, "learner", looked_at):
        runs.make(folder, "given", *runs.HINT, deepspeed("stage: 2"), processes=2)
    return found


def refused(folder: Path, name: str, *overrides: str) -> str:
    """Return what a run that fails says."""
    plugins = runs.registry()
    plugins.register("loss", "kink", Kink, inputs=[Input("input")])
    text = runs.BASE.format(folder=folder, name=name, length=50, batch=8, half=4)
    try:
        run(load_config(text, overrides=overrides, plugins=plugins), registry=plugins, quiet=True)
    except KdcoreError as error:
        return str(error)
    return ""


def went_on_without(folder: Path) -> str:
    """Interrupt the run that `resumed` makes, and go on without DeepSpeed; returns its folder."""
    plugins = runs.registry()
    plugins.register("model", "dropped", runs.Dropped)
    plugins.register("loss", "signalling", runs.Signalling, inputs=[Input("input")])
    text = runs.BASE.format(folder=folder, name="resumed", length=50, batch=4, half=4)
    losses = [
        f"stages.{each}.losses.z={{type: signalling, inputs: {{input: student}}}}" for each in ("first", "second")
    ]
    begun, after = (
        load_config(text, overrides=(*runs.DROPOUT, *losses, ADAM, strategy), plugins=plugins)
        for strategy in (deepspeed("stage: 2"), "distributed={strategy: ddp}")
    )
    runs.Signalling.at = 5
    try:
        found = run(begun, registry=plugins, quiet=True)
    except Interrupted as signal:
        found = Path(signal.advice.split("resume='")[1].split("'")[0])
    runs.Signalling.at = -1
    return str(run(after, registry=plugins, quiet=True, resume=found, accept_changes=True))


def forget_failures() -> None:
    """Let another run of these processes fail as if it were the first."""
    _, store = _channels()
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        for key in ("failed", "unwound/0", "unwound/1", "diverged/0", "diverged/1"):
            store.delete_key(f"kdcore/{key}")
    torch.distributed.barrier()


def main(folder: Path) -> None:
    """Run every case, and leave what the tests look at."""
    rank = int(os.environ["RANK"])
    folders = {
        name: str(runs.make(folder, name, *overrides, deepspeed(options), processes=2))
        for name, (overrides, options) in CASES.items()
    }
    resumed = {
        stage: [str(each) for each in runs.resumed(folder / f"resumed_{stage}", ADAM, deepspeed(f"stage: {stage}"))[:2]]
        for stage in (1, 2)
    }
    kink = "stages.first.losses.kink={type: kink, inputs: {input: student}}"
    odd = "stages.first.losses.odd={type: odd, inputs: {input: student, index: batch:index}}"
    slow = ("stages.first.epochs=1", "data.train.shuffle=false", "data.train.batch_size=1", deepspeed("stage: 2"))
    found = {
        "folders": folders, "resumed": resumed, "given": given(folder), "without": went_on_without(folder / "without"),
        "values": refused(folder, "values", deepspeed("stage: 2, reduce_bucket_size: -1")),
        "gradient": refused(folder, "gradient", kink, deepspeed("stage: 1")),
    }  # fmt: skip
    forget_failures()
    found["odd"] = refused(folder, "odd", odd, *slow)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
