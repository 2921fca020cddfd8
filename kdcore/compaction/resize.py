"""Smaller modules in the place of a model's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.compaction.attention import CompactMultiheadAttention
from kdcore.compaction.operations import STRUCTURAL, is_convolution, spatial_dims
from kdcore.compaction.program import Slot, Step
from kdcore.compaction.state import State
from kdcore.errors import WeightsError

_HEADS = re.compile(r"heads?(_|$)|num_attention_heads")
_NOT_A_COUNT = re.compile(r"dim|size|width|mask|group|idx|index")
_WIDTHS = frozenset(
    ["split_size", "all_head_size", "inner_dim", "inner_size", "embed_dim", "attention_dim", "hidden_size", "d_model"]
)


@dataclass
class Resized:
    """What is different in one module: whole numbers among its attributes, and the shapes of its tensors.

    `kind` is the name of its class, which is compared before anything is changed.
    """

    kind: str
    attributes: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Plan:
    """All that is different in a smaller model, and the values of what changed, by name."""

    modules: dict[str, Resized] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)


def plan(model: nn.Module, state: State) -> Plan:
    """Return what becomes of each module when all goes that need not stay."""
    made = Plan()
    program, kept = state.program, state.kept
    for slot in (*program.parameters, *program.buffers):
        grouped = state.grouped.get(slot)
        if not kept.reached(slot) or not (kept.changed(slot) or (grouped and grouped.changed(kept))):
            continue
        value = program.values[slot].detach()
        groups = None
        if grouped is not None:
            value, groups = grouped.cut(kept)
        else:
            for dim, mask in enumerate(kept.of(slot)):
                value = value.index_select(dim, torch.nonzero(mask).flatten())
        for name in (*program.parameters.get(slot, ()), *program.buffers.get(slot, ())):
            made.tensors[name] = value
            if groups is not None:
                _entry(made, model, name).attributes["groups"] = groups
    _fold(made, state)
    for name, value in made.tensors.items():
        _entry(made, model, name).shapes[name.rpartition(".")[2]] = list(value.shape)
    for name, resized in made.modules.items():
        resized.attributes |= _sizes(model.get_submodule(name), resized)
    for name, attributes in _counts(model, state).items():
        made.modules.setdefault(name, Resized(type(model.get_submodule(name)).__name__)).attributes |= attributes
    return made


def apply(model: nn.Module, modules: Mapping[str, Resized], tensors: Mapping[str, Tensor] | None = None) -> None:
    """Resize a model's modules in place; tied parameters stay tied.

    Arguments:
        model: of the type and params that the plan was made for.
        modules: what is different.
        tensors: values by name; without them the new tensors are empty, for weights to be loaded.

    Raises:
        WeightsError: the model has no such module, or one of another class.
    """
    # With the old ones, which must not be freed: another could take over the identity.
    fresh: dict[int, tuple[Tensor, nn.Parameter]] = {}
    for name, resized in modules.items():
        module = _module(model, name, resized)
        if isinstance(module, nn.MultiheadAttention) and "num_heads" in resized.attributes:
            compact = CompactMultiheadAttention(module, resized.attributes["num_heads"])
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, compact)
            module = compact
        for attribute, number in resized.attributes.items():
            if not isinstance(getattr(module, attribute, None), int):
                raise WeightsError(
                    f"{name!r} ({resized.kind}) has no whole number {attribute!r} that could be {number}"
                )
            setattr(module, attribute, number)
        for key, shape in resized.shapes.items():
            full = f"{name}.{key}".lstrip(".")
            old = getattr(module, key, None)
            like = old if isinstance(old, Tensor) else next(module.parameters())
            value = tensors[full].to(like) if tensors is not None else torch.zeros(shape, dtype=like.dtype)
            if key in module._buffers:
                module._buffers[key] = value
                continue
            tied = fresh.get(id(old))
            parameter = tied[1] if tied else nn.Parameter(value.clone(), requires_grad=like.requires_grad)
            if isinstance(old, Tensor):
                fresh[id(old)] = old, parameter
            module.register_parameter(key, parameter)


def _module(model: nn.Module, name: str, resized: Resized) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if module is None or type(module).__name__ != resized.kind:
        found = "no such module" if module is None else f"a {type(module).__name__} there"
        raise WeightsError(
            f"the compact model has a {resized.kind} {name!r}, and {type(model).__name__} has {found}",
            repair="build the model by the type and params that it was compacted with",
        )
    return module


def _entry(made: Plan, model: nn.Module, parameter: str) -> Resized:
    owner = parameter.rpartition(".")[0]
    return made.modules.setdefault(owner, Resized(type(model.get_submodule(owner)).__name__))


def _fold(made: Plan, state: State) -> None:
    """Add to biases what the constants contributed that go: b[o] += sum_i w[o, i] c[i]."""
    program, kept = state.program, state.kept
    for step in program.steps:
        if step.op != "linear" and not is_convolution(step):
            continue
        weight, bias = state.needed(step, "weight"), state.tensor(step, "bias")
        if weight in state.grouped or weight not in program.parameters or not kept.reached(weight):
            continue
        rows, gone = kept.of(weight)[0], ~kept.of(weight)[1]
        if not gone.any() or not state.foldable(step):
            continue
        added = _contribution(state, step, gone)[rows]
        if added.any():
            name = _bias_name(step.module, bias, state)
            old = state.value(bias)[rows] if bias is not None else torch.zeros(int(rows.sum()))
            made.tensors[name] = (old.double() + added).to(state.value(weight).dtype)
            made.folded.append(name)


def _contribution(state: State, step: Step, gone: Tensor) -> Tensor:
    """Return what the constants among the inputs that go add to each output."""
    x, convolves = state.needed(step, "input"), is_convolution(step)
    weight = state.value(state.needed(step, "weight")).double()
    weight = weight.flatten(2).sum(2) if convolves else weight
    lanes = len(state.kept.of(x)) - 1 - (spatial_dims(step) if convolves else 0)
    # What goes and is no constant met weights of 0.
    return weight[:, gone] @ state.variation.constant_lanes(x, lanes).nan_to_num(0.0)[gone]


def _bias_name(module: str, slot: Slot | None, state: State) -> str:
    return f"{module}.bias".lstrip(".") if slot is None else state.program.parameters[slot][0]


def _sizes(module: nn.Module, resized: Resized) -> dict[str, int]:
    """Return the attributes by which torch's own modules know their sizes."""
    shapes, groups = resized.shapes, resized.attributes.get("groups", getattr(module, "groups", 1))
    weight = shapes.get("weight")
    found: dict[str, Any] = {}
    if isinstance(module, nn.MultiheadAttention):
        rows = shapes.get("in_proj_weight", [0])[0] // 3 or shapes.get("q_proj_weight", [0])[0]
        heads = rows // module.head_dim
        return {"num_heads": heads} if rows and heads != module.num_heads else {}
    if weight is None:
        return {"num_features": shapes["running_mean"][0]} if "running_mean" in shapes else {}
    if isinstance(module, nn.Linear):
        found = {"out_features": weight[0], "in_features": weight[1]}
    elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        found = {"out_channels": weight[0], "in_channels": weight[1] * groups}
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        found = {"num_features": weight[0]}
    elif isinstance(module, nn.GroupNorm):
        size = module.num_channels // module.num_groups
        found = {"num_channels": weight[0], "num_groups": weight[0] // size}
    elif isinstance(module, nn.Embedding):
        found = {"embedding_dim": weight[1]}
    elif isinstance(module, nn.PReLU):
        found = {"num_parameters": weight[0]}
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        # Of transformers: a linear layer whose weight is (in, out).
        found = {"nf": weight[1], **({"nx": weight[0]} if isinstance(getattr(module, "nx", None), int) else {})}
    return {key: size for key, size in found.items() if getattr(module, key, size) != size}


def _counts(model: nn.Module, state: State) -> dict[str, dict[str, int]]:
    """Return numbers of heads, and widths of all heads together, that modules of others keep as attributes.

    A module that splits a width by a number of its own must know the new one: in `x.unflatten(-1, (heads, -1))` the
    attribute of that value whose name speaks of heads.
    """
    found: dict[str, dict[str, int]] = {}
    changes: dict[str, dict[int, int]] = {}
    for step in state.program.steps:
        if step.op not in STRUCTURAL:
            continue
        for slot in state.program.written_by(step):
            for mask in state.kept.of(slot):
                size = int(mask.sum())
                if 0 < size < len(mask):
                    changes.setdefault(step.module, {})[len(mask)] = size
    for path, sizes in changes.items():
        module = model.get_submodule(path)
        if type(module).__module__.startswith("torch.nn"):
            continue
        own = {key: value for key, value in vars(module).items() if type(value) is int and value in sizes}
        heads = {key for key in own if _HEADS.search(key) and not _NOT_A_COUNT.search(key)}
        widths = {key for key in own if key in _WIDTHS}
        chosen = {key: sizes[own[key]] for key in (*heads, *widths)}
        if chosen:
            found[path] = chosen
    return found


def changed_nodes(state: State, module: str) -> Iterable[str]:
    """Return the nodes of a module that move elements of tensors which have become smaller."""
    for step in state.program.steps:
        if step.module == module and step.op in STRUCTURAL:
            slots = state.program.written_by(step)
            if any(state.kept.changed(slot) and state.kept.reached(slot) for slot in slots):
                yield step.node.name
