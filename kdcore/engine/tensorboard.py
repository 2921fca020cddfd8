"""Metrics for TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from kdcore.engine.disk import disk_errors


class TensorBoard:
    """Writes each stage's metrics by optimizer step, a folder for each stage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def write(self, stage: str, step: int, metrics: Mapping[str, float], lr: list[float]) -> None:
        """Write one epoch; what a run that was resumed had written for later steps is superseded."""
        with disk_errors(self._folder):
            if stage not in self._writers:
                folder = str(self._folder / stage)
                self._writers[stage] = SummaryWriter(folder, purge_step=step)
            writer = self._writers[stage]
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
            for index, value in enumerate(lr):
                writer.add_scalar(f"lr/{index}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What has already gone wrong, often the same full disk, is not to be hidden by this.
        with disk_errors(self._folder) if error is None else contextlib.suppress(OSError):
            for writer in self._writers.values():
                writer.close()
