"""What the engine tells a progress display; the base class is the silent one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class StagePlan:
    """How long a stage is meant to be: `steps_per_epoch` training steps in each of `epochs` epochs."""

    name: str
    title: str
    epochs: int
    steps_per_epoch: int


class Progress:
    """Follows a run and writes nothing; displays override what they show.

    Calls come in this order (`[]` optional, `*` repeated), within `with make_progress() as progress`:

        run_started
            (stage_started
                (epoch_started step_ended* [evaluating evaluated_batch*] epoch_ended)*
                [evaluating evaluated_batch*] stage_ended)*
        run_ended

    A resumed run starts at a later stage, epoch or step. `message` may come at any time, and so may
    `close`, which every path out of the `with` block ends with.
    """

    def run_started(self, name: str, folder: Path, stages: Sequence[StagePlan]) -> None:
        """Begin the run `name`, which writes into `folder` and is planned to have `stages`."""

    def stage_started(self, index: int) -> None:
        """Begin the stage at position `index` of the plan, counted from 0."""

    def epoch_started(self, epoch: int, step: int = 0) -> None:
        """Begin an epoch, counted from 0 as in metrics.jsonl; people read it counted from 1.

        A resumed run begins its first one after `step` steps.
        """

    def step_ended(self, terms: Callable[[], Mapping[str, float]]) -> None:
        """Count one step; costs well under a microsecond unless a refresh is due.

        Arguments:
            terms: returns the losses to show, by name and in order. It is called only on a refresh,
                because reading losses waits for the device.
        """

    def evaluating(self, split: str, total: int) -> None:
        """Begin an evaluation on `split`, which has `total` batches (0 where that is unknown)."""

    def evaluated_batch(self) -> None:
        """Count one batch of the evaluation; as cheap as a step."""

    def epoch_ended(self, epoch: int, metrics: Mapping[str, float], lr: Sequence[float]) -> None:
        """End an epoch.

        Arguments:
            epoch: as given to `epoch_started`.
            metrics: by full name, such as `val/student/accuracy`, `train/loss`, `train/losses/kd`.
            lr: the learning rate of each parameter group.
        """

    def stage_ended(self, summary: str) -> None:
        """End the stage; `summary` is a line for people, such as the best epoch and why it stopped."""

    def message(self, text: str) -> None:
        """Tell the user something, a warning for example, without disturbing the display."""

    def run_ended(self, rows: Sequence[Mapping[str, Any]], report: Path | None) -> None:
        """End the run with the table of results, the `rows` of results.json, and where the report lies."""

    def close(self) -> None:
        """Give the terminal back as it was; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
