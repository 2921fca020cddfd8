"""Which layers a group prunes, and why it leaves others alone."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parameter import is_lazy

from kdcore.errors import WiringError, suggestion
from kdcore.pruning.attention import attentions, by_head
from kdcore.pruning.blocks import Blocks
from kdcore.pruning.candidates import TYPES, Candidate, candidates, of_types
from kdcore.pruning.config import PruningGroup
from kdcore.pruning.layers import Part, PrunedLayer
from kdcore.pruning.layout import MisfitError
from kdcore.pruning.pattern import FILTER, HEAD
from kdcore.pruning.trace import Trace


@dataclass
class Choice:
    """What a group prunes, what it leaves and why, and what is worth saying."""

    layers: list[PrunedLayer] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def choose(model: nn.Module, group: PruningGroup, index: int, trace: Trace | None, taken: dict[int, str]) -> Choice:
    """Choose the layers of a group; raises WiringError where the group cannot mean what it says.

    Arguments:
        model: whose layers are chosen.
        group: by which.
        index: its number, counted from 0.
        trace: of a run with example inputs, if there was one.
        taken: by the identity of a parameter, the layer that has it already; added to.
    """
    choice = Choice()
    _check_types(model, group)
    _check_patterns(model, group)
    found = (
        _heads(model, group, index, choice)
        if group.pattern.name == HEAD
        else _weights(model, group, index, trace, choice)
    )
    for layer in found:
        owner = next((taken[id(part.parameter)] for part in layer.parts if id(part.parameter) in taken), None)
        if owner is not None and owner.startswith(f"{index}:"):
            choice.skipped.append((layer.name, f"shares its weight with {owner.partition(':')[2]}"))
            continue
        if owner is not None:
            number, _, other = owner.partition(":")
            raise WiringError(
                f"pruning: {layer.name} is pruned by two groups, the {_ordinal(int(number))} and the "
                f"{_ordinal(index)}" + (f" (which calls it {other})" if other != layer.name else ""),
                place=group.place,
                repair="keep the groups apart with include and exclude",
            )
        taken.update((id(part.parameter), f"{index}:{layer.name}") for part in layer.parts)
        choice.layers.append(layer)
    _check_found(group, choice)
    _check_frozen(group, choice)
    return choice


def _heads(model: nn.Module, group: PruningGroup, index: int, choice: Choice) -> Iterator[PrunedLayer]:
    for name, module in attentions(model):
        if not _wanted(name, group, choice):
            continue
        try:
            found = by_head(model, name, module, group.reduce)
        except MisfitError as misfit:
            choice.skipped.append((name, str(misfit)))
            continue
        yield PrunedLayer(name, index, group.pattern.name, found.parts, found.coupled)


def _weights(
    model: nn.Module, group: PruningGroup, index: int, trace: Trace | None, choice: Choice
) -> Iterator[PrunedLayer]:
    classifiers = set() if group.prune_classifier else _classifiers(model, trace)
    normalised = False
    for each in candidates(model):
        if not of_types(each.module, group.layers) or not _wanted(each.name, group, choice):
            continue
        if each.name in classifiers:
            choice.skipped.append((each.name, "makes the model's output"))
            choice.messages.append(
                f"pruning leaves {each.name} alone, which makes the model's output"
                f"{'' if trace and trace.heads else ' (its last Linear)'}; prune_classifier: true prunes it too"
            )
            continue
        weight = each.module._parameters.get(each.attribute)
        if weight is None:
            choice.skipped.append((each.name, "its weight is computed (a parametrization), not a parameter"))
            continue
        if is_lazy(weight):
            raise WiringError(
                f"pruning: {each.name} does not know its shape yet",
                place=group.place,
                repair="run the model once first",
            )
        try:
            blocks = each.layout.blocks(group.pattern, group.reduce)
        except MisfitError as misfit:
            choice.skipped.append((each.name, str(misfit)))
            continue
        coupled = _coupled(model, each, trace) if group.pattern.name == FILTER else []
        normalised = normalised or group.pattern.name == FILTER
        yield PrunedLayer(
            each.name, index, group.pattern.name, [Part(each.parameter, each.module, each.attribute, blocks)], coupled
        )
    if normalised and trace is None:
        choice.messages.append(
            "pruning: without example inputs it is not known which normalisations follow the filters, so only the "
            "filters' own biases go with them; a channel that is normalised afterwards may stay other than zero"
        )


def _coupled(model: nn.Module, each: Candidate, trace: Trace | None) -> list[Part]:
    """Return the parameters with one value per output that make a masked filter's channel zero."""
    holders: list[tuple[str, nn.Module, tuple[str, ...]]] = [(each.name, each.module, ("bias",))]
    for norm in trace.norms.get(each.name, []) if trace else []:
        holders.append((norm, model.get_submodule(norm), ("weight", "bias")))
    outputs = each.layout.outputs
    if each.attribute != "weight":
        holders = [(each.name.rpartition(".")[0], each.module, ("in_proj_bias",))]
    found = []
    for name, module, attributes in holders:
        for attribute in attributes:
            parameter = module._parameters.get(attribute)
            if parameter is not None and tuple(parameter.shape) == (outputs,):
                key = f"{name}.{attribute}" if name else attribute
                found.append(Part(key, module, attribute, Blocks((outputs,), (outputs,), ())))
    return found


def _classifiers(model: nn.Module, trace: Trace | None) -> set[str]:
    if trace is not None and trace.heads:
        return set(trace.heads)
    linear = [each.name for each in candidates(model) if isinstance(each.module, nn.Linear)]
    ran = [name for name in (trace.ran if trace else []) if name in linear]
    return set((ran or linear)[-1:])


def _wanted(name: str, group: PruningGroup, choice: Choice) -> bool:
    if group.include and not any(_matches(name, pattern, group.model) for pattern in group.include):
        return False
    for pattern in group.exclude:
        if _matches(name, pattern, group.model):
            choice.skipped.append((name, f"excluded by {pattern!r}"))
            return False
    return True


def _matches(name: str, pattern: str, model: str | None) -> bool:
    """Whether a glob matches a layer or a module that contains it, the model's name in front or not."""
    parts = name.split(".")
    names = [".".join(parts[:length]) for length in range(1, len(parts) + 1)] if name else [""]
    if model:
        names += [model, *(f"{model}.{each}" for each in names)]
    return any(fnmatch.fnmatchcase(each, pattern) for each in names)


def _check_types(model: nn.Module, group: PruningGroup) -> None:
    bases = {base for each in candidates(model) for base in type(each.module).__mro__}
    present = {base.__name__ for base in bases if base not in (object, nn.Module)}
    for name in group.layers:
        if name not in present and name not in TYPES:
            raise WiringError(
                f"layers: {name!r} is no type of layer that can be pruned",
                place=group.at("layers"),
                repair=suggestion(name, [*TYPES, *sorted(present)], noun="types"),
            )


def _check_patterns(model: nn.Module, group: PruningGroup) -> None:
    names = [name for name, _ in model.named_modules() if name] + [each.name for each in candidates(model)]
    for key, patterns in (("include", group.include), ("exclude", group.exclude)):
        for pattern in patterns:
            if not any(_matches(name, pattern, group.model) for name in names):
                raise WiringError(
                    f"{key}: {pattern!r} matches no module",
                    place=group.at(key),
                    repair=suggestion(pattern, names, noun="modules"),
                )


def _check_found(group: PruningGroup, choice: Choice) -> None:
    if choice.layers:
        return
    misfits = [f"{name} ({reason})" for name, reason in choice.skipped]
    if misfits:
        raise WiringError(
            f"pruning: no layer is left to prune by pattern {group.pattern}: {'; '.join(misfits)}",
            place=group.at("pattern"),
            repair="choose another pattern or other layers",
        )
    heads = group.pattern.name == HEAD
    what = "attention modules" if heads else f"layers of type {', '.join(group.layers)}"
    elsewhere = (
        ("pattern", "choose a pattern of single layers") if heads else ("layers", "list other types under layers")
    )
    key, repair = ("include", "name modules that contain some") if group.include else elsewhere
    within = f" among what include names ({', '.join(group.include)})" if group.include else ""
    raise WiringError(
        f"pruning: there are no {what}{within}",
        place=group.at(key),
        repair=repair,
    )


def _check_frozen(group: PruningGroup, choice: Choice) -> None:
    frozen = [layer.name for layer in choice.layers if not all(part.parameter.requires_grad for part in layer.parts)]
    if frozen:
        shown = ", ".join(frozen[:5]) + (f", ... ({len(frozen)} in all)" if len(frozen) > 5 else "")
        raise WiringError(
            f"pruning: {shown} {'is' if len(frozen) == 1 else 'are'} frozen, and nothing would make up for what is "
            "pruned there",
            place=group.place,
            repair=f"leave out what is frozen, exclude: [{', '.join(frozen[:3])}], or train it",
        )


def _ordinal(index: int) -> str:
    names = ("first", "second", "third")
    return names[index] if index < len(names) else f"{index + 1}th"
