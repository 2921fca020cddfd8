"""The loop: batches in, optimizer steps out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcore.address import Address
from kdcore.config.config import Config, StageConfig
from kdcore.engine.data import Loader, Sample
from kdcore.engine.device import to_device
from kdcore.engine.metrics import TOTAL, Judge, Mean
from kdcore.engine.optimizers import build_optimizer
from kdcore.engine.progress import Progress
from kdcore.engine.schedulers import Stepper, build_scheduler
from kdcore.errors import KdcoreError, WiringError
from kdcore.pipeline.objective import Objective, Share, autocast
from kdcore.pipeline.term import nonzero

_SHOWN = 8


class Trainer:
    """Runs the optimizer steps of a stage, one epoch at a time."""

    def __init__(
        self,
        stage: StageConfig,
        objective: Objective,
        loader: Loader,
        optimizer: torch.optim.Optimizer,
        scheduler: Stepper | None,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.stage = stage
        self.objective = objective
        self.loader = loader
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.device = device
        self.progress = progress
        self.step = 0
        self.mean = Mean()
        self.steps_per_epoch = steps_per_epoch(stage, loader)
        self.total_steps = self.steps_per_epoch * (stage.epochs or 1)
        self._autocast = autocast(device, stage.precision)
        self._parameters = [parameter for _, parameter in objective.named_trainable()]

    def epoch(self, epoch: int, judges: dict[str, Judge]) -> dict[str, float]:
        """Train one epoch and return the mean of the total and of each term."""
        self.objective.train()
        self.mean = Mean()
        windows = _windows(self.loader.epoch(epoch), self.stage.accumulate)
        for window in itertools.islice(windows, self.steps_per_epoch):
            self.objective.progress(self.step, self.total_steps, epoch)
            self._train(window, judges)
            self.step += 1
            if self.scheduler is not None:
                self.scheduler.step_ended()
            self.progress.step_ended(self.mean.latest)
        return self.mean.compute()

    def _train(self, window: Sequence[Sample], judges: dict[str, Judge]) -> None:
        for batch, share in self._shares(window):
            try:
                with self._autocast:
                    out = self.objective(to_device(batch, self.device), share)
            except KdcoreError as error:
                raise _with_samples(error, batch, self.loader, self.stage) from error
            out.total.backward()
            total = out.total.detach() if share is None else out.total.detach() / share.fraction
            self.mean.add({TOTAL: total, **out.terms}, len(batch["index"]), self.objective.counts)
            judge(judges, self.objective, self.stage.metrics.target)
        if self.stage.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.stage.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _shares(self, window: Sequence[Sample]) -> Iterable[tuple[Sample, Share | None]]:
        """Say what part of the step each batch is, so that the parts add up to one batch of all of it."""
        if len(window) == 1:
            return [(window[0], None)]
        rows = [len(batch["index"]) for batch in window]
        counts: dict[str, Tensor | float] = {}
        for batch in window:
            for name, count in self.objective.count(batch).items():
                counts[name] = counts.get(name, 0) + count
        # Where nothing counts the sums are 0, and so is the mean; counts of weights may be below 1.
        counts = {name: nonzero(count) for name, count in counts.items()}
        return [(batch, Share(row / sum(rows), counts)) for batch, row in zip(window, rows, strict=True)]


def make_optimizer(
    config: Config, stage: StageConfig, objective: Objective, loader: Loader
) -> tuple[torch.optim.Optimizer, Stepper | None]:
    """Build the optimizer and the scheduler of a stage."""
    place = config.place("stages", stage.index, "optimizer")
    optimizer = build_optimizer(stage.optimizer or {}, objective.named_trainable(), place=place)
    if stage.scheduler is None:
        return optimizer, None
    steps, epochs = steps_per_epoch(stage, loader), stage.epochs or 1
    scheduler = build_scheduler(
        stage.scheduler,
        optimizer,
        total_steps=steps * epochs,
        steps_per_epoch=steps,
        epochs=epochs,
        place=config.place("stages", stage.index, "scheduler"),
    )
    return optimizer, scheduler


def steps_per_epoch(stage: StageConfig, loader: Loader) -> int:
    """Return how many optimizer steps an epoch makes."""
    whole = -(-len(loader) // stage.accumulate)
    return min(whole, stage.steps_per_epoch or whole)


def judge(judges: dict[str, Judge], objective: Objective, target: Address) -> None:
    """Add the latest pass's observed outputs to the judges of their models."""
    observed = objective.observed
    for name, each in judges.items():
        output = observed.get(Address(name))
        if output is not None:
            each.add(output, observed[target])


def evaluate(
    objective: Objective,
    loader: Loader,
    judges: dict[str, Judge],
    stage: StageConfig,
    device: torch.device,
    progress: Progress,
    split: str,
) -> dict[str, float]:
    """Run the Objective over a data set without training; returns the means of total and terms."""
    objective.eval()
    mean = Mean()
    progress.evaluating(split, len(loader))
    with torch.no_grad():
        for batch in loader.epoch(0):
            try:
                with autocast(device, stage.precision):
                    out = objective(to_device(batch, device))
            except KdcoreError as error:
                raise _with_samples(error, batch, loader, stage) from error
            mean.add({TOTAL: out.total, **out.terms}, len(batch["index"]), objective.counts)
            judge(judges, objective, stage.metrics.target)
            progress.evaluated_batch()
    return mean.compute()


def check_accumulation(stage: StageConfig, objective: Objective, batch: Sample) -> None:
    """Raise WiringError for a term over positions that cannot tell its count beforehand."""
    for term in objective.terms:
        if stage.accumulate > 1 and term.name in objective.counts and term.count(batch) is None:
            raise WiringError(
                f"term {term.name!r} returns (sum, count) but cannot tell its count before a forward pass: with "
                f"accumulate: {stage.accumulate} the mean over all positions cannot be formed",
                place=term.config.place,
                repair="bind its labels or mask to the batch, choose a reduction to a scalar, or write accumulate: 1",
            )


def _with_samples(error: KdcoreError, batch: Sample, loader: Loader, stage: StageConfig) -> KdcoreError:
    """Return the same error, saying which samples met it: the first batch of the stage did not."""
    indices = batch["index"].tolist()
    shown = ", ".join(map(str, indices[:_SHOWN])) + (f", ... ({len(indices)} in all)" if len(indices) > _SHOWN else "")
    return error.adding(f"on samples {shown} of data {loader.config.name!r}").at(stage.place)


def _windows(batches: Iterator[Sample], size: int) -> Iterator[list[Any]]:
    while window := list(itertools.islice(batches, size)):
        yield window
