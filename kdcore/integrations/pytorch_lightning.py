"""Distillation with Lightning, the package `pytorch_lightning`."""

from __future__ import annotations

from kdcore.integrations.distillation_module import Distillation
from kdcore.integrations.library import missing

try:
    from pytorch_lightning import LightningModule
except ImportError as error:
    raise missing("pytorch_lightning", "pytorch_lightning", "lightning") from error


class DistillationModule(Distillation, LightningModule):  # type: ignore[misc]
    """As `kdcore.integrations.lightning.DistillationModule`, for the Trainer of pytorch_lightning."""
