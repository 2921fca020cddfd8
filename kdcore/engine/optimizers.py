"""Optimizers: a class of torch, its parameters sorted into groups by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from kdcore.config.training import check_optimizer
from kdcore.engine.construction import TorchClass, checked
from kdcore.errors import Place, WiringError, suggestion


def build_optimizer(
    config: Mapping[str, Any] | str,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    place: Place = Place(),
) -> torch.optim.Optimizer:
    """Build the optimizer of a stage.

    Its first parameter group is what no pattern of `groups` matches, the others follow in the
    config's order; one without parameters is left out. The first pattern that matches a parameter
    decides, and within a group the order is that of `named_parameters`.

    Arguments:
        config: a type or `{type, params, groups}`; it is not changed.
        named_parameters: full names (`student.block1.conv.bias`) and parameters. Those that require
            no gradient are passed over; one that comes under several names is taken once, and a
            pattern may match it by any of them.
        place: where the config stands, for messages.

    Raises:
        ConfigError: if the config is wrong.
        WiringError: if nothing is trainable, a pattern has no effect, or torch refuses.
    """
    node = checked(check_optimizer, config, place)
    cls = TorchClass(torch.optim, "optimizer", node["type"], place)
    found = _collected(named_parameters)
    left = _trainable(found, place)
    if cls.name == "Muon":
        _check_matrices(left, place)
    groups: list[dict[str, Any]] = []
    for group in node["groups"]:
        for pattern in group["pattern"]:
            _check_effect(pattern, left, found, place)
        taken = [each for each in left if each.matches(group["pattern"])]
        left = [each for each in left if not each.matches(group["pattern"])]
        groups.append(_group(taken, cls.accepted(group["params"])))
    if left:
        groups.insert(0, _group(left, {}))
    return cls(groups, **_with_tuples(cls.accepted(node["params"])))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Named:
    """A parameter under all its names."""

    parameter: nn.Parameter
    names: list[str]

    def matches(self, patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in self.names)


def _collected(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> list[_Named]:
    found: dict[int, _Named] = {}
    for name, parameter in named_parameters:
        found.setdefault(id(parameter), _Named(parameter, [])).names.append(name)
    return list(found.values())


def _trainable(found: list[_Named], place: Place) -> list[_Named]:
    trainable = [each for each in found if each.parameter.requires_grad]
    if trainable:
        return trainable
    if not found:
        raise WiringError(
            "the optimizer has nothing to train: what the stage trains has no parameters",
            place=place,
            repair="name a model or an adapter with parameters under train:",
        )
    raise WiringError(
        f"the optimizer has nothing to train: all {len(found)} parameters are frozen",
        place=place,
        repair="remove a pattern from freeze:, or name another model under train:",
    )


def _check_effect(pattern: str, left: list[_Named], found: list[_Named], place: Place) -> None:
    if any(each.matches([pattern]) for each in left):
        return
    matched = [each for each in found if each.matches([pattern])]
    if not matched:
        what = "matches no parameter"
        repair = suggestion(pattern, (name for each in found for name in each.names), noun="parameters")
    elif any(each.parameter.requires_grad for each in matched):
        what, repair = "matches only parameters that an earlier group has taken", "move its group up, or remove it"
    else:
        what, repair = "matches only frozen parameters", "remove it, or a pattern from freeze:"
    raise WiringError(f"pattern {pattern!r} of the optimizer's groups {what}", place=place, repair=repair)


def _check_matrices(trainable: list[_Named], place: Place) -> None:
    others = [f"{each.names[0]} {tuple(each.parameter.shape)}" for each in trainable if each.parameter.ndim != 2]
    if others:
        shown = ", ".join(others[:5]) + (f", ... ({len(others)} in all)" if len(others) > 5 else "")
        raise WiringError(
            f"Muon trains matrices only (2 dimensions), and these are none: {shown}",
            place=place,
            repair="list them under freeze:, or choose another optimizer, such as AdamW",
        )


def _group(members: list[_Named], params: Mapping[str, Any]) -> dict[str, Any]:
    return {"params": [each.parameter for each in members], **_with_tuples(params)}


def _with_tuples(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}
