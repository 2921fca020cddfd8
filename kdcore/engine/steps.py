"""How many optimizer steps a stage makes, what makes them, and whether they can be formed of several batches."""

from __future__ import annotations

import torch

from kdcore.collective import process_count
from kdcore.config.config import Config, StageConfig
from kdcore.engine.loader import Loader
from kdcore.engine.optimizers import build_optimizer
from kdcore.engine.samples import Sample
from kdcore.engine.schedulers import Stepper, build_scheduler
from kdcore.errors import WiringError
from kdcore.pipeline.objective import Objective


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


def check_accumulation(stage: StageConfig, objective: Objective, batch: Sample) -> None:
    """Raise WiringError for a term over positions that cannot tell its count beforehand."""
    for term in objective.terms:
        parts = stage.accumulate * process_count()
        if parts > 1 and term.name in objective.counts and term.count(batch) is None:
            processes = f" and {process_count()} processes" if process_count() > 1 else ""
            raise WiringError(
                f"term {term.name!r} returns (sum, count) but cannot tell its count before a forward pass: with "
                f"accumulate: {stage.accumulate}{processes} the mean over all positions cannot be formed",
                place=term.config.place,
                repair="bind its labels or mask to the batch, choose a reduction to a scalar, or "
                + ("run one process" if processes else "write accumulate: 1"),
            )
