"""The Pruner: what a training loop calls, its own or the engine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.component import Kind
from kdcore.config.create import checked_params
from kdcore.errors import KdcoreError, Place, RunError, WiringError, suggestion
from kdcore.plugins import Registry
from kdcore.plugins import registry as installed
from kdcore.pruning.candidates import candidates
from kdcore.pruning.choice import choose
from kdcore.pruning.config import PruningGroup
from kdcore.pruning.group import LiveGroup
from kdcore.pruning.layers import PrunedLayer
from kdcore.pruning.schedule import Schedule
from kdcore.pruning.sparsity import Sparsity
from kdcore.pruning.trace import Trace, trace


class Pruner:
    """Prunes a model while it trains.

    Between `backward()` and the optimizer's step it shows the gradients to the pruning criteria and makes new masks
    where the schedule says so; after the step it sets masked weights to zero, so that momentum cannot revive them.

        pruner = Pruner(model, {"criterion": "snip", "pattern": "4x1", "target_sparsity": 0.8}, total_steps=1000)
        handle = pruner.attach(optimizer)

    or, in place of `attach`, `before_optimizer()` and `after_optimizer()` around `optimizer.step()`. A GradScaler's
    gradients must be unscaled by then.

    Arguments:
        model: a module, or an Objective, whose trained models are pruned.
        groups: one or several groups, as mappings with the keys of a config's `pruning:` or as PruningGroup.
        total_steps: optimizer steps in all; needed for `end: auto`, and checked against the schedule.
        steps_per_epoch: needed for schedules in epochs.
        example_inputs: a tensor, a tuple of arguments or a mapping of keyword arguments for one run of the model (a
            batch for an Objective), which shows the layer that makes the output and the normalisations that follow
            filters. Without, the last Linear counts as the former, and only biases go with filters.
        place: where the groups stand in a config, for errors.
        registry: of components; unless given, that of the installed plugins.

    Raises:
        ConfigError: a group has unknown keys or wrong values.
        WiringError: a group does not fit the model or the number of steps; nothing has been changed.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, Any] | PruningGroup | Sequence[Mapping[str, Any] | PruningGroup],
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        example_inputs: Any = None,
        place: Place = Place(),
        registry: Registry | None = None,
    ) -> None:
        self.step = 0
        self.skipped: list[tuple[str, str]] = []
        self.messages: list[str] = []
        self._groups: list[LiveGroup] = []
        configs = _configs(groups, place)
        models = [_model(model, group) for group in configs]
        several = len({id(each) for _, each in models}) > 1
        taken: dict[int, str] = {}
        traces: dict[int, Trace | None] = {}
        for index, (group, (name, root)) in enumerate(zip(configs, models, strict=True)):
            if id(root) not in traces:
                traces[id(root)] = _trace(model, root, example_inputs, group)
            choice = choose(root, group, index, traces[id(root)], taken)
            prefix = f"{name}." if several and name else ""
            for layer in choice.layers:
                layer.name = prefix + layer.name
                layer.minimum, layer.maximum, layer.target = group.min_sparsity, group.most, group.target_sparsity
            self.skipped += [(prefix + each, reason) for each, reason in choice.skipped]
            for message in choice.messages:
                self._tell(message)
            schedule = Schedule.of(group, total_steps, steps_per_epoch)
            criterion = _criterion(group, registry)
            self._groups.append(LiveGroup(group, choice.layers, criterion, schedule, self._tell))
        self._parts = [part for layer in self.layers for part in (*layer.parts, *layer.coupled)]

    @property
    def groups(self) -> list[PruningGroup]:
        """The groups as written."""
        return [group.config for group in self._groups]

    @property
    def schedules(self) -> list[Schedule]:
        """The schedules of the groups, in steps."""
        return [group.schedule for group in self._groups]

    @property
    def layers(self) -> list[PrunedLayer]:
        """Every layer that is pruned, group after group."""
        return [layer for group in self._groups for layer in group.layers]

    @property
    def completed(self) -> bool:
        """Whether the last masks of every schedule have been made."""
        return all(self.step > group.schedule.last for group in self._groups)

    def before_optimizer(self) -> None:
        """Look at the gradients, not clipped yet, and make masks if this step is due."""
        for group in self._groups:
            group.before_optimizer(self.step)

    def after_optimizer(self) -> None:
        """Set masked weights to zero, and count the step."""
        self.apply()
        self.step += 1

    @torch.no_grad()
    def apply(self) -> None:
        """Set masked weights to zero now."""
        weights: list[Tensor] = []
        factors: list[Tensor] = []
        for part in self._parts:
            if part.factor is not None:
                parameter = part.parameter
                if part.factor.device != parameter.device:
                    part.factor = part.factor.to(parameter.device)
                weights.append(parameter)
                factors.append(part.factor)
        if weights:
            torch._foreach_mul_(weights, factors)

    def attach(self, optimizer: torch.optim.Optimizer) -> Attachment:
        """Let the optimizer's own step call the Pruner; `remove()` of what it returns ends that."""
        before = optimizer.register_step_pre_hook(lambda *_: self.before_optimizer())
        after = optimizer.register_step_post_hook(lambda *_: self.after_optimizer())
        return Attachment([before, after])

    def sparsity(self) -> Sparsity:
        """Return how sparse the pruned layers are by their masks; no device is waited for."""
        return Sparsity.of(self.layers)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, the criteria's states and counters, as tensors and plain data."""
        return {"step": self.step, "groups": [group.state_dict() for group in self._groups]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state to the same bits; the model and the optimizer are loaded by whoever saved them."""
        if len(state["groups"]) != len(self._groups):
            raise RunError(
                f"the saved pruning state has {len(state['groups'])} groups, this Pruner {len(self._groups)}",
                place=self.groups[0].place,
                repair="bring back the groups that it was begun with",
            )
        self.step = state["step"]
        for group, each in zip(self._groups, state["groups"], strict=True):
            group.load_state_dict(each, self.step)

    def _tell(self, message: str) -> None:
        if message not in self.messages:
            self.messages.append(message)


class Attachment:
    """What `Pruner.attach` set; `remove()` takes it off."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()


def _configs(groups: Any, place: Place) -> list[PruningGroup]:
    several = isinstance(groups, Sequence) and not isinstance(groups, str)
    listed = list(groups) if several else [groups]
    if not listed:
        raise WiringError("pruning: no group is given", place=place)
    return [
        each if isinstance(each, PruningGroup) else PruningGroup.from_mapping(each, _numbered(place, index, several))
        for index, each in enumerate(listed)
    ]


def _numbered(place: Place, index: int, several: bool) -> Place:
    path = ".".join(filter(None, (place.path or "pruning", str(index) if several else "")))
    return Place(path, place.file, place.line, place.column)


def _model(model: nn.Module, group: PruningGroup) -> tuple[str, nn.Module]:
    from kdcore.pipeline.objective import Objective

    if not isinstance(model, Objective):
        return group.model or "", model
    trained = dict(model.models.named_children())
    if group.model is None and len(trained) == 1:
        return next(iter(trained.items()))
    if group.model is None:
        raise WiringError(
            f"pruning: several models are trained: {', '.join(trained)}",
            place=group.place,
            repair=f"say which with model: {next(iter(trained), '...')}",
        )
    if group.model not in trained:
        raise WiringError(
            f"pruning: model {group.model!r} is not trained in this stage",
            place=group.at("model"),
            repair=suggestion(group.model, trained, noun="trained models"),
        )
    return group.model, trained[group.model]


def _trace(caller: nn.Module, model: nn.Module, example_inputs: Any, group: PruningGroup) -> Trace | None:
    if example_inputs is None:
        return None
    layers = {each.name: each.module for each in candidates(model)}
    return trace(model, layers, caller, example_inputs, group.place)


def _criterion(group: PruningGroup, registry: Registry | None) -> Any:
    if not isinstance(group.criterion, str):
        return group.criterion
    try:
        registered = (registry or installed()).find(Kind.CRITERION, group.criterion)
        return registered.factory()(**checked_params(registered, dict(group.params)))
    except KdcoreError as error:
        raise error.at(group.at("criterion")) from error
