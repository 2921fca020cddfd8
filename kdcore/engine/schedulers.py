"""Learning-rate schedules: a class of torch, moved on after each step or each epoch."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from kdcore.config.training import AUTO, check_scheduler
from kdcore.engine.construction import TorchClass, checked
from kdcore.errors import Place, RunError, WiringError, suggestion

# What a ReduceLROnPlateau has learned from metrics; all else in its state is settings.
_COUNTS = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class Stepper:
    """A schedule that is told of every step and epoch and moves on after those it counts.

    Arguments:
        scheduler: a scheduler of torch.
        interval: `step` or `epoch`.
        monitor: the metric that the scheduler looks at, if it does.
        config: `{type, interval, params}` that it was built by, totals filled in.
        length: in intervals, what the stage has.
        place: where its config stands, for messages.
    """

    def __init__(
        self,
        scheduler: lr_scheduler.LRScheduler,
        interval: str,
        *,
        monitor: str | None = None,
        config: Mapping[str, Any] | None = None,
        length: int | None = None,
        place: Place = Place(),
    ) -> None:
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor
        self.config = dict(config or {"type": type(scheduler).__name__, "interval": interval})
        self.length = length
        self.place = place

    def step_ended(self) -> None:
        """Note that the optimizer has made a step."""
        if self.interval == "step":
            self._advance()

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """Note that an epoch has ended with `metrics`; raises RunError if the monitored one is missing."""
        if self.interval != "epoch":
            return
        if self.monitor is None:
            self._advance()
        elif self.monitor in metrics:
            self._advance(metrics[self.monitor])
        else:
            raise RunError(
                f"the scheduler monitors {self.monitor!r}, which this epoch has not",
                place=self.place,
                repair=suggestion(self.monitor, metrics, noun="metrics"),
            )

    def last_lr(self) -> list[float]:
        """Return the learning rate of each parameter group."""
        return [float(group["lr"]) for group in self.scheduler.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, a copy; the learning rates themselves are in the optimizer's."""
        own = {"type": type(self.scheduler).__name__, "state": copy.deepcopy(self.scheduler.state_dict())}
        return own if self.monitor is None else {**own, "monitor": self.monitor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; raises RunError if another class has written it."""
        own = type(self.scheduler).__name__
        if state["type"] != own:
            raise RunError(
                f"the saved scheduler is {state['type']}, this one {own}",
                place=self.place,
                repair="resume with the config of the saved run",
            )
        # A copy, since torch keeps what it is given and CyclicLR even takes entries out.
        self.scheduler.load_state_dict(copy.deepcopy(state["state"]))

    def replay(self, intervals: int) -> None:
        """Move a new schedule to where it would be after `intervals` steps or epochs; weights are not touched."""
        with warnings.catch_warnings():
            # The optimizer has made its steps before, in a state that is not loaded yet.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for _ in range(intervals if self.length is None else min(intervals, self.length)):
                self._advance()

    def keep_counts(self, state: Mapping[str, Any]) -> None:
        """Take over what another ReduceLROnPlateau has counted, if it looked at the same metric in the same way."""
        saved, own = state["state"], self.scheduler
        if (state.get("monitor", self.monitor), saved["mode"]) == (self.monitor, getattr(own, "mode", None)):
            own.load_state_dict({**own.state_dict(), **{key: saved[key] for key in _COUNTS}})

    def _advance(self, *metric: float) -> None:
        try:
            self.scheduler.step(*metric)  # type: ignore[arg-type]
        except (ValueError, ArithmeticError) as error:
            name = type(self.scheduler).__name__
            raise RunError(f"{name} cannot move on: {error}", place=self.place, repair="change its params") from error


def build_scheduler(
    config: Mapping[str, Any] | str,
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    epochs: int,
    place: Place = Place(),
) -> Stepper:
    """Build the scheduler of a stage, `auto` totals filled in.

    `auto` is the number of intervals (steps or epochs) that the schedule makes; inside
    `SequentialLR` that of its own part, from its milestone to the next.

    Arguments:
        config: a type or `{type, params, interval}`; it is not changed.
        optimizer: whose learning rates it sets.
        total_steps: steps that the optimizer makes in the stage, accumulated batches counted once.
        steps_per_epoch: those of one epoch.
        epochs: epochs of the stage.
        place: where the config stands, for messages.

    Raises:
        ConfigError: if the config is wrong.
        WiringError: if torch refuses, or the schedule is shorter than the stage and cannot go on.
    """
    node = checked(check_scheduler, config, place)
    interval, params = node["interval"], dict(node["params"])
    monitor = params.pop("monitor", None)
    totals = _Totals(total_steps if interval == "step" else epochs, steps_per_epoch, epochs)
    filled = totals.fill(node["type"], params)
    scheduler = _build(filled, optimizer, place)
    if isinstance(scheduler, lr_scheduler.OneCycleLR) and scheduler.total_steps < totals.length:
        raise WiringError(
            f"OneCycleLR is over after {scheduler.total_steps} {interval}s, but the stage has {totals.length}",
            place=place,
            repair="write total_steps: auto",
        )
    described = {**filled, "interval": interval}
    if monitor is not None:
        described["params"] = {**filled["params"], "monitor": monitor}
    return Stepper(scheduler, interval, monitor=monitor, config=described, length=totals.length, place=place)


@dataclass(frozen=True)
class _Totals:
    """What `auto` stands for; `length` is in intervals."""

    length: int
    steps_per_epoch: int
    epochs: int

    def fill(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a scheduler's `{type, params}`, and those of its parts, without `auto`."""
        own = {"steps_per_epoch": self.steps_per_epoch, "epochs": self.epochs}
        filled: dict[str, Any] = {
            key: own.get(key, self.length) if value == AUTO else value for key, value in params.items()
        }
        if "schedulers" in filled:
            nodes = filled["schedulers"]
            spans = self.parts(filled["milestones"]) if "milestones" in filled else [self] * len(nodes)
            filled["schedulers"] = [
                span.fill(node["type"], node["params"]) for node, span in zip(nodes, spans, strict=True)
            ]
        return {"type": name, "params": filled}

    def parts(self, milestones: list[int]) -> list[_Totals]:
        # A part that begins after the end, as in a shortened run, never runs; any length will do.
        bounds = [0, *milestones, self.length]
        return [replace(self, length=max(end - start, 1)) for start, end in itertools.pairwise(bounds)]


def _build(node: Mapping[str, Any], optimizer: Optimizer, place: Place) -> lr_scheduler.LRScheduler:
    cls = TorchClass(lr_scheduler, "scheduler", node["type"], place)
    accepted = cls.accepted(node["params"])
    if "schedulers" not in accepted:
        return cls(optimizer, **accepted)  # type: ignore[no-any-return]
    schedulers = [_build(each, optimizer, place) for each in accepted.pop("schedulers")]
    return cls(optimizer=optimizer, schedulers=schedulers, **accepted)  # type: ignore[no-any-return]
