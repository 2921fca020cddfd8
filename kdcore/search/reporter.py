"""What a trial tells the search while it runs, by way of the engine's progress display."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcore.engine.interrupt import Interrupted
from kdcore.engine.progress import Progress, StagePlan
from kdcore.search.job import Channel


class Stopped(Interrupted):
    """The search has no more use for this trial.

    An interruption to the engine: the state of training is saved, and the run could go on.
    """

    def __init__(self) -> None:
        super().__init__(signal.SIGTERM)


class Reporter(Progress):
    """Tells of every epoch, asks after those of the last stage whether to go on, and keeps messages in a log.

    Arguments:
        channel: to the search.
        log: the file of messages.
    """

    def __init__(self, channel: Channel, log: Path) -> None:
        self._channel = channel
        self._log = log
        self._stages: Sequence[StagePlan] = ()
        self._index = 0
        self._stopped = False
        self.epochs = 0

    def run_started(self, name: str, folder: Path, stages: Sequence[StagePlan]) -> None:
        """Take the plan."""
        self._stages = stages

    def stage_started(self, index: int) -> None:
        """Take note of the stage."""
        self._index = index
        self._channel.tell("stage", {"stage": index, "stages": len(self._stages), "epochs": self._stages[index].epochs})

    def epoch_started(self, epoch: int, step: int = 0) -> None:
        """End the run if the search wants it to: here the state of training is whole."""
        if self._stopped:
            raise Stopped

    def epoch_ended(self, epoch: int, metrics: Mapping[str, float], lr: Sequence[float]) -> None:
        """Report the epoch."""
        self.epochs = epoch + 1
        last = self._index == len(self._stages) - 1
        epochs, stages = self._stages[self._index].epochs, len(self._stages)
        data = {"stage": self._index, "stages": stages, "epoch": epoch + 1, "epochs": epochs}
        self._channel.tell("epoch", data)
        if last and epoch + 1 < epochs:
            self._stopped = not self._channel.ask("epoch", {**data, "metrics": dict(metrics)})

    def message(self, text: str) -> None:
        """Keep the message."""
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
