"""What the optimizer and the scheduler of a stage were built as, to tell later whether a config has changed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdcore.config.config import StageConfig
from kdcore.engine.schedulers import Stepper
from kdcore.errors import RunError

# What schedulers note in a group of parameters for themselves; initial_lr is the rate that they start from.
NOTES = frozenset({"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"})

Values = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """A group of parameters: their names, and the hyperparameters that the optimizer was built with for them."""

    names: tuple[str, ...]
    values: Values

    @property
    def rate(self) -> Any:
        """The learning rate before any schedule."""
        return self.values.get("initial_lr", self.values["lr"])


@dataclass(frozen=True)
class Built:
    """An optimizer and a scheduler before their first step.

    Arguments:
        optimizer: the name of its class.
        groups: of its parameters, in its order.
        scheduler: `{type, interval, params}` with every total filled in; None where there is none.
        steps_per_epoch: steps of an epoch.
        samples_per_step: samples of a step, over all its batches and processes.
    """

    optimizer: str
    groups: tuple[Group, ...]
    scheduler: Values | None
    steps_per_epoch: int
    samples_per_step: int

    @classmethod
    def of(
        cls,
        optimizer: torch.optim.Optimizer,
        scheduler: Stepper | None,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        steps_per_epoch: int,
        samples_per_step: int,
    ) -> Built:
        """Describe what was just built; the first of a shared parameter's names counts."""
        names: dict[int, str] = {}
        for name, parameter in named_parameters:
            names.setdefault(id(parameter), name)
        groups = tuple(
            Group(tuple(names[id(each)] for each in group["params"]), values_of(group))
            for group in optimizer.param_groups
        )
        described = dict(scheduler.config) if scheduler is not None else None
        return cls(type(optimizer).__name__, groups, described, steps_per_epoch, samples_per_step)

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Built:
        """Return what `state_dict` was made of."""
        groups = tuple(Group(tuple(each["names"]), dict(each["values"])) for each in state["groups"])
        return cls(**{**state, "groups": groups})

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "optimizer": self.optimizer,
            "groups": [{"names": list(each.names), "values": dict(each.values)} for each in self.groups],
            "scheduler": self.scheduler,
            "steps_per_epoch": self.steps_per_epoch,
            "samples_per_step": self.samples_per_step,
        }

    @property
    def by_name(self) -> dict[str, Group]:
        """The group of each parameter."""
        return {name: group for group in self.groups for name in group.names}

    @property
    def plateau(self) -> bool:
        """Whether the learning rate depends on metrics, and not on the step alone."""
        return self.scheduler is not None and self.scheduler["type"] == "ReduceLROnPlateau"

    def same_training(self, other: Built) -> bool:
        """Whether optimizer and scheduler are the same."""
        return (self.optimizer, self.groups, self.scheduler) == (other.optimizer, other.groups, other.scheduler)

    def same_steps(self, other: Built) -> bool:
        """Whether a step is as many samples, and an epoch as many steps."""
        mine = self.steps_per_epoch, self.samples_per_step
        return mine == (other.steps_per_epoch, other.samples_per_step)

    def steps_done(self, then: Built, done: int, stage: StageConfig) -> int:
        """Return how many steps of an epoch are behind it, as they are now, after `done` of those that were.

        Raises:
            RunError: the epoch cannot go on where it was left.
        """
        if done == then.steps_per_epoch:
            return self.steps_per_epoch
        samples = done * then.samples_per_step
        steps, rest = divmod(samples, self.samples_per_step)
        if not rest and steps <= self.steps_per_epoch:
            return steps
        left = f"after {samples} samples of an epoch ({done} steps of {then.samples_per_step})"
        many = f"more than the {self.steps_per_epoch} steps that it has now"
        now = f"no number of steps of {self.samples_per_step}" if rest else many
        raise RunError(
            f"stage {stage.name!r} was saved {left}, which is {now}: the epoch would not go on where it was left",
            place=stage.place,
            repair="finish the epoch with the batch_size and accumulate that it was begun with, and the data that it "
            "had, and change them between two epochs",
        )


def values_of(group: Mapping[str, Any]) -> Values:
    """Return the hyperparameters of a group of an optimizer."""
    return {key: value for key, value in group.items() if key != "params"}
