"""Metrics for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes each stage's metrics under `<stage>/<metric>`, by optimizer step."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def write(self, stage: str, step: int, metrics: Mapping[str, float], lr: list[float]) -> None:
        """Write one epoch."""
        for name, value in metrics.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)
        for index, value in enumerate(lr):
            self._writer.add_scalar(f"{stage}/lr/{index}", value, step)

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()
