"""A pass over a data set without training: the means of its losses, and what its outputs are worth."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable

import torch

from kdcore.address import Address
from kdcore.collective import absent
from kdcore.config.config import StageConfig
from kdcore.engine.device import autocast, batch_to_device
from kdcore.engine.finding import Finding, listed
from kdcore.engine.loader import Loader
from kdcore.engine.mean import TOTAL, Added, Mean
from kdcore.engine.metrics import Hits, Judge
from kdcore.engine.part import counted
from kdcore.engine.processes import Processes
from kdcore.engine.progress import Progress
from kdcore.engine.samples import Sample
from kdcore.errors import KdcoreError
from kdcore.pipeline.objective import Objective


def evaluate(
    objective: Objective,
    loader: Loader,
    judges: dict[str, Judge],
    stage: StageConfig,
    device: torch.device,
    progress: Progress,
    split: str,
    check: Callable[[], None],
    processes: Processes,
    tell: Callable[[str], None],
) -> dict[str, float]:
    """Run the Objective over a data set without training; returns the means of total and terms.

    `check` is called after every batch, and may end the evaluation by raising. `tell` hears of values that are not
    finite, in the first batch that has any.
    """
    objective.eval()
    wrong: list[Added] = []
    mean = Mean(wrong.append)
    progress.evaluating(split, len(loader))
    with torch.no_grad():
        for batch in loader.epoch(0):
            try:
                rows, _ = counted(batch)
                with autocast(device, stage.precision), contextlib.nullcontext() if rows else absent():
                    out = objective(batch_to_device(batch, device))
            except KdcoreError as error:
                raise with_samples(error, batch, loader, stage) from error
            if rows:
                mean.add(out.terms, rows, objective.counts, batch["index"])
                for judge, hits in judged(judges, objective, stage.metrics.target):
                    judge.count(hits)
            progress.evaluated_batch()
            check()
        means = mean.compute(processes.gather)
        if not means:
            # Every term exists in training only: there is no total, rather than one of 0.
            return {TOTAL: math.nan}
        # The total of the means, so that it does not depend on how the samples came in batches.
        with processes.gathered(objective):
            total = objective.balance({name: torch.tensor(value, device=device) for name, value in means.items()})
    means = {TOTAL: float(total), **means}
    # All processes have the same means, and so come here together.
    if not all(map(math.isfinite, means.values())):
        told = processes.gather([Finding.of_losses(0, each.values, each.origin).told({}) for each in wrong[:1]])
        tell(next((text for texts in told for text in texts), f"the total is {means[TOTAL]}"))
    return means


def judged(judges: dict[str, Judge], objective: Objective, target: Address) -> list[tuple[Judge, Hits]]:
    """Return what the latest pass's observed outputs are worth, with the judges that may count it."""
    observed = objective.observed
    outputs = [(judge, observed.get(_output_of(name))) for name, judge in judges.items()]
    return [(judge, judge.look(output, observed[target])) for judge, output in outputs if output is not None]


# In every step, for the same few models.
_output_of = functools.cache(Address)


def with_samples(error: KdcoreError, batch: Sample, loader: Loader, stage: StageConfig) -> KdcoreError:
    """Return the same error, saying which samples met it: the first batch of the stage did not."""
    return error.adding(f"on samples {listed(batch['index'])} of data {loader.config.name!r}").at(stage.place)
