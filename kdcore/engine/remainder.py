"""The last batch of an epoch, which may be too short for a loss or a model that the others suit."""

from __future__ import annotations

import torch

from kdcore.config.config import Config, StageConfig
from kdcore.engine.device import autocast, to_device
from kdcore.engine.loader import Loader
from kdcore.engine.stage import StageLoaders
from kdcore.engine.steps import steps_per_epoch
from kdcore.errors import KdcoreError, WiringError
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.probe import undone
from kdcore.pipeline.randomness import derive_seed


def check_remainders(
    config: Config, stage: StageConfig, loaders: StageLoaders, objective: Objective, device: torch.device
) -> None:
    """Run as many samples as each split's last batch has, and undo it; raises WiringError if that fails."""
    for role, loader in loaders.by_role.items():
        if not loader.left_over or (role == "train" and not _reached(stage, loader)):
            continue
        batch = to_device(loader.draw(list(range(loader.left_over))), device)
        seed = derive_seed(config.seed, "probe", stage.name)
        try:
            with undone([objective], seed), torch.set_grad_enabled(role == "train"):
                objective.train(role == "train")
                with autocast(device, stage.precision):
                    objective(batch)
        except KdcoreError as error:
            raise _in_last_batch(loader, role, error) from error


def _reached(stage: StageConfig, loader: Loader) -> bool:
    """Whether an epoch comes to its last batch."""
    return steps_per_epoch(stage, loader) * stage.accumulate >= len(loader)


def _in_last_batch(loader: Loader, role: str, error: KdcoreError) -> KdcoreError:
    config = loader.config
    rows = f"{loader.left_over} of its {len(loader.dataset)} samples"
    found = error.adding(f"in the last batch of data {config.name!r}, which holds {rows}").at(config.place)
    repair = f"the first batch does: choose another batch_size for {config.name!r} than {config.batch_size}" + (
        ", or write drop_last: true" if role == "train" else ""
    )
    return WiringError(found.problem.what, place=found.problem.place, repair=repair)
