"""The objective of own_loop.yaml in a loop on Hugging Face Accelerate: several devices, accumulated gradients.

python examples/digits/own_accelerate.py
torchrun --nproc-per-node 2 examples/digits/own_accelerate.py --cpu
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from collections.abc import Iterable
from itertools import chain, islice, repeat

import torch
from accelerate import Accelerator
from own_loop import Batch, Net, accuracy, fit, labels, objective_of
from torch.utils.data import DataLoader

import kdcore


def distill(
    accelerator: Accelerator, objective: kdcore.Objective, loader: Iterable[Batch], steps: int, accumulate: int
) -> None:
    """Train the objective; each step is of `accumulate` batches per process, and exact for terms over positions."""
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    wrapped, optimizer, loader = accelerator.prepare(objective, optimizer, loader)
    wrapped.train()
    batches = chain.from_iterable(repeat(loader))
    for _ in range(steps):
        window = list(islice(batches, accumulate))
        counts = kdcore.StepCounts.of(objective, window, across=accelerator.reduce)
        for index, batch in enumerate(window, start=1):
            # Gradients are averaged over the processes once, after the last batch.
            whole = index == len(window)
            with contextlib.nullcontext() if whole else accelerator.no_sync(wrapped):
                accelerator.backward(wrapped(batch, counts.share(batch)).total)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def main() -> None:
    """Train a teacher, a student alone and the same student distilled by all processes together."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each training (default 150)")
    parser.add_argument("--accumulate", type=int, default=2, help="batches per step and process (default 2)")
    parser.add_argument("--save", help="a file for the weights of the distilled student")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU; several processes there need it")
    options = parser.parse_args()
    accelerator = Accelerator(cpu=options.cpu)

    train = DataLoader(kdcore.create("dataset", "digits", split="train"), batch_size=64, shuffle=True)
    few = kdcore.create("dataset", "digits", split="train", samples_per_class=20)
    test = DataLoader(kdcore.create("dataset", "digits", split="test"), batch_size=512)
    loader = DataLoader(few, 32 // (options.accumulate * accelerator.num_processes), shuffle=True)

    # Models as large as those below, so that a mistake in the config shows before any of them has trained.
    objective_of(Net(16), Net(4), loader).close()
    # The same seed in every process: each trains the same teacher and the same student.
    torch.manual_seed(options.seed)
    teacher, student = Net(16), Net(4)
    alone = copy.deepcopy(student)
    fit(teacher, labels(teacher), train, options.steps)
    fit(alone, labels(alone), DataLoader(few, 32, shuffle=True), options.steps)

    objective = objective_of(teacher, student, loader)
    # Frozen weights are exchanged by nothing: an error here tells of a teacher that is another one in some process.
    objective.check_agreement()
    distill(accelerator, objective, loader, options.steps, options.accumulate)

    if accelerator.is_main_process:
        distilled = objective.export_student().cpu()
        if options.save:
            torch.save(distilled.state_dict(), options.save)
        for name, model in {"teacher": teacher, "student alone": alone, "student distilled": distilled}.items():
            print(f"{name:20}{100 * accuracy(model.cpu(), test):.1f} %")
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main()
    except kdcore.KdcoreError as error:
        sys.exit(str(error))
