"""What of a saved optimizer and scheduler goes on where the config has changed since: what was learned, no setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from kdcore.engine.built import NOTES, Built, Group, Values, values_of
from kdcore.engine.finding import count_of
from kdcore.engine.learner import Learner
from kdcore.engine.nonfinite import Guard
from kdcore.engine.schedulers import Stepper
from kdcore.errors import RunError

State = Mapping[str, Any]

# Settings with which an optimizer's state begins: later they mean nothing.
_BEGINNING = {"Rprop": ("lr", "etas", "step_sizes"), "Adagrad": ("initial_accumulator_value",)}
_OPTIONS = ("foreach", "fused", "capturable", "differentiable")


class UnfitStateError(RunError):
    """A saved state that cannot go on under the config as it is now; nothing has been trained by that."""


class Training(NamedTuple):
    """What makes the steps of a stage, as the config that is given now has built it."""

    built: Built
    optimizer: torch.optim.Optimizer
    scheduler: Stepper | None
    learner: Learner
    guard: Guard


def go_on(now: Training, then: Built | None, state: State, *, steps: int, epochs: int) -> list[str]:
    """Load a state of training, whole where nothing has changed, and return what has.

    Arguments:
        now: what goes on.
        then: what the state was saved by; None is taken for the same.
        state: `{optimizer, scheduler, guard}`.
        steps: that schedules have behind them.
        epochs: that they have behind them.

    Raises:
        ValueError, KeyError, RunError: the state is of something else.
    """
    scheduler, guard = now.scheduler, now.guard
    guard.load_state_dict(state["guard"])
    by_step = scheduler is not None and scheduler.interval == "step"
    if then is None or (now.built.same_training(then) and (now.built.same_steps(then) or not by_step)):
        now.learner.load_state_dict(state["optimizer"])
        if scheduler is not None and state["scheduler"] is not None:
            scheduler.load_state_dict(state["scheduler"])
        return []
    carried = Carried(then, now.built, now.optimizer, scheduler, state, steps if by_step else epochs)
    if carried.anew:
        carried.apply_rates(now.optimizer)
        now.learner.begin()
    else:
        now.learner.load_state_dict(carried.state_dict())
    changes = list(carried.changes(guard.scale))
    if carried.new_rate:
        guard.scale = 1.0
    return changes


class Carried:
    """The state of an optimizer under another config than the one it was saved under.

    Hyperparameters are those of the config as it is now. A schedule of steps or epochs is at the rate that it would
    have reached by now, had it been in force from the beginning; one that watches a metric keeps what it has counted,
    and its rate unless that is given anew. What the optimizer has learned of a parameter (momenta, step counts) is kept
    by the parameter's name, unless an optimizer of this type or these settings could not go on from it.

    Arguments:
        then: what the state was saved by.
        now: what was built by the config as it is now.
        optimizer: the one that was built; moved on to the step reached.
        scheduler: of it.
        saved: the optimizer's and the scheduler's state, `{optimizer, scheduler}`.
        intervals: how many steps or epochs the scheduler has behind it.
    """

    def __init__(
        self,
        then: Built,
        now: Built,
        optimizer: torch.optim.Optimizer,
        scheduler: Stepper | None,
        saved: State,
        intervals: int,
    ) -> None:
        self.then = then
        self.now = now
        self._saved = saved["optimizer"]
        self._before = [values_of(group) for group in self._saved["param_groups"]]
        if scheduler is not None and now.plateau:
            if then.plateau:
                scheduler.keep_counts(saved["scheduler"])
        elif scheduler is not None:
            scheduler.replay(intervals)
        self._after = [values_of(group) for group in optimizer.param_groups]
        if then.plateau and now.plateau:
            self._keep_rates()
        self.anew = self._anew(optimizer)

    @property
    def new_rate(self) -> bool:
        """Whether the config gives another learning rate, from which reductions made so far do not follow."""
        old = self.then.by_name
        return any(name in old and old[name].rate != group.rate for name, group in self.now.by_name.items())

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, for `load_state_dict` of one that was built by the config as it is now."""
        saved = self._by_name()
        state, groups, index = {}, [], 0
        for group, values in zip(self.now.groups, self._after, strict=True):
            indices = list(range(index, index + len(group.names)))
            state.update({at: saved[name] for at, name in zip(indices, group.names, strict=True) if name in saved})
            groups.append({**values, "params": indices})
            index += len(group.names)
        return {"state": state, "param_groups": groups}

    def apply_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimizer whose state begins anew the hyperparameters."""
        for group, values in zip(optimizer.param_groups, self._after, strict=True):
            group.update(values)

    def changes(self, scale: float) -> Iterator[str]:
        """Yield what has changed, to be told.

        Arguments:
            scale: the factor that `lower_rate` had put on the learning rates; it is told where it ends.
        """
        then, now = self.then, self.now
        kept = 1.0 if self.new_rate else scale
        before, after = [[each["lr"] * scale for each in self._before], [each["lr"] * kept for each in self._after]]
        yield from _differing("lr", before, after)
        old_values, new_values = ([each.values for each in groups] for groups in (then.groups, now.groups))
        known = [key for key in new_values[0] if key in old_values[0]]
        for key in (key for key in known if key != "lr" and key not in NOTES):
            yield from _differing(key, *([each.get(key) for each in values] for values in (old_values, new_values)))
        yield from _schedule_changes(then.scheduler, now.scheduler)
        old, new = then.by_name.keys(), now.by_name.keys()
        if [each.names for each in then.groups] != [each.names for each in now.groups]:
            said = [f"{count_of(len(new & old), 'parameter')} kept", f"{len(new - old)} new", f"{len(old - new)} gone"]
            yield f"the groups of parameters ({', '.join(said)})"
        if kept != scale:
            yield f"the factor {scale:g} of lower_rate ends with the new learning rate"
        if self.anew:
            yield f"the optimizer's state begins anew ({self.anew})"

    def _by_name(self) -> dict[str, Any]:
        """Return what was learned of each parameter."""
        groups, state = self._saved["param_groups"], self._saved["state"]
        return {
            name: state[index]
            for group, saved in zip(self.then.groups, groups, strict=True)
            for name, index in zip(group.names, saved["params"], strict=True)
            if index in state
        }

    def _keep_rates(self) -> None:
        """Keep the rates that a metric has led to, where the config gives no other."""
        old = self.then.by_name
        reached = {
            name: values["lr"]
            for group, values in zip(self.then.groups, self._before, strict=True)
            for name in group.names
        }
        for group, values in zip(self.now.groups, self._after, strict=True):
            rates = {reached[name] for name in group.names if name in old and old[name].rate == group.rate}
            if len(rates) == 1:
                values["lr"] = rates.pop()

    def _anew(self, optimizer: torch.optim.Optimizer) -> str:
        """Return why the optimizer cannot go on from what was learned, if it cannot."""
        then, now, old = self.then, self.now, self.then.by_name
        if then.optimizer != now.optimizer:
            return f"{then.optimizer} -> {now.optimizer}"
        pairs = [(old[name], group) for name, group in now.by_name.items() if name in old]
        for key in _BEGINNING.get(now.optimizer, ()):
            if any(one.values.get(key) != two.values.get(key) for one, two in pairs):
                return f"{key} of {now.optimizer} is what it begins with"
        if optimizer.state and now.by_name.keys() - old.keys():
            return f"{now.optimizer} makes that of all parameters at once"
        learned = self._by_name()
        for group in now.groups:
            wanted = _learned_names(optimizer, group)
            for name in group.names:
                if learned.get(name) and (missing := wanted - learned[name].keys()):
                    return f"it has no {', '.join(sorted(missing))} yet"
        return ""


def _learned_names(optimizer: torch.optim.Optimizer, group: Group) -> set[str]:
    """Return what an optimizer with a group's settings learns of a parameter, by trying it on a small one."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    gradient = torch.ones(2, 2)
    parameter.grad = gradient.to_sparse() if isinstance(optimizer, torch.optim.SparseAdam) else gradient
    settings = {key: value for key, value in group.values.items() if key not in _OPTIONS}
    trial: Any = type(optimizer)([{**settings, "params": [parameter]}])  # type: ignore[call-arg]
    trial.step()
    return set(trial.state[parameter])


def _schedule_changes(then: Values | None, now: Values | None) -> Iterator[str]:
    names = [each["type"] if each is not None else "none" for each in (then, now)]
    if names[0] != names[1]:
        yield f"scheduler {names[0]} -> {names[1]}"
    elif then is not None and now is not None:
        old, new = dict(_leaves(then)), dict(_leaves(now))
        for key in dict.fromkeys([*old, *new]):
            yield from _differing(key.removeprefix("params."), [old.get(key)], [new.get(key)])


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if entries is None:
        yield path, node
        return
    for key, value in entries:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _differing(name: str, before: list[Any], after: list[Any]) -> Iterator[str]:
    """Yield how the values of some groups have changed, if they have."""
    old, new = _merged(before), _merged(after)
    if old != new:
        yield f"{name} {_shown(old)} -> {_shown(new)}"


def _merged(values: list[Any]) -> list[Any]:
    """Return one value for all groups that have the same."""
    return values[:1] if all(each == values[0] for each in values) else values


def _shown(values: list[Any]) -> str:
    return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)
