"""Distillation with Lightning, the package `lightning`."""

from __future__ import annotations

from kdcore.integrations.distillation_module import Distillation
from kdcore.integrations.library import missing

try:
    from lightning.pytorch import LightningModule
except ImportError as error:
    raise missing("lightning", "lightning", "lightning") from error


class DistillationModule(Distillation, LightningModule):  # type: ignore[misc]
    """A LightningModule that trains an Objective.

        module = DistillationModule(objective, lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))
        Trainer(max_epochs=5).fit(module, train_loader, val_loader)

    It logs `train/loss` and each term per step; `val/` and `test/` hold the means over all samples, or
    positions. Checkpoints hold what is trained, the student under `objective.models.student.`, and no
    teacher. Several processes give the gradient of one big batch. With accumulate_grad_batches only terms
    that are means over samples are allowed, since Lightning averages batches.

    Arguments:
        objective: from `build_objective`.
        optimizer: makes an optimizer, or anything else that configure_optimizers may return, of the
            trainable parameters.
    """
