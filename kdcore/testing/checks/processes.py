"""Two processes that train together."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn

from kdcore.component import Kind
from kdcore.contracts import method_of
from kdcore.testing.check import MODULES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.pickled import pickled
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.steps import PER_EPOCH, step
from kdcore.testing.subject import Subject

WORLD = 2
# The first step of an epoch, so that what processes join once per epoch is joined.
STEPS = 2 * PER_EPOCH + 1


@check(
    MODULES - {Kind.MODEL},
    "two processes with different batches hold the same state",
    optional=True,
    slow=True,
    after=(*BASICS, "state_continues"),
    strictly=("instances_apart",),
)
def processes(subject: Subject) -> None:
    """Train some steps in two processes joined by gloo, and compare their buffers after each epoch's end."""
    if not _remembers(subject):
        raise NotApplicable("no step changes its buffers")
    try:
        pickled(subject)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotApplicable(
            f"its example does not reach another process ({error}): define inputs at the top of a module"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_train, (folder, subject), WORLD)  # type: ignore[attr-defined,no-untyped-call]
        states = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for name, value in states[0].items():
        if not torch.equal(value.nan_to_num(), states[1][name].nan_to_num()):
            raise Finding(
                f"after {STEPS} steps on two processes its buffer {name} differs between them: gather "
                "what it remembers (kdcore.collective), or skip this check and say why "
                "it may differ"
            )


def _remembers(subject: Subject) -> bool:
    built = subject.build()
    before = {name: value.clone() for name, value in built.named_buffers()}
    step(subject, built, 0, move=False)
    return any(not torch.equal(before[name].nan_to_num(), value.nan_to_num()) for name, value in built.named_buffers())


def _train(rank: int, folder: str, subject: Subject) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    example = subject.given
    subject = Subject(subject.registered, replace(example, facts=replace(example.facts, num_processes=WORLD)))
    built = subject.build()
    for number in range(STEPS):
        if number == STEPS - 1:  # what processes join is what they held when the epoch ended
            _tell(built, number)
            torch.save(_buffers(built), Path(folder) / f"{rank}.pt")
        step(subject, built, number, batch=WORLD * number + rank, move=False)
    torch.distributed.destroy_process_group()


def _tell(built: nn.Module, number: int) -> None:
    progress = method_of(built, "progress")
    if progress is not None:
        progress(number, STEPS, number // PER_EPOCH)


def _buffers(built: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in built.named_buffers()}
