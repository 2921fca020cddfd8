"""The least of a model that must stay, so that what stays computes the same outputs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from kdcore.compaction.kept import Kept
from kdcore.compaction.operations import BATCH_NORMS, CONTRACTIONS, is_convolution, spatial_dims
from kdcore.compaction.program import Program, Slot, Step
from kdcore.compaction.rules import rule_of
from kdcore.compaction.state import State
from kdcore.compaction.variation import Variation


def settle(program: Program, variation: Variation, model: nn.Module, pinned: Iterable[str] = ()) -> State:
    """Follow every operation, from the outputs back and from what is kept forth, until nothing changes.

    Arguments:
        program: the operations.
        variation: which values are constants.
        model: whose modules run them.
        pinned: names of modules and of nodes around which everything stays as it is.
    """
    state = State(program, variation, model, Kept(program))
    for slot in program.outputs:
        state.kept.keep_all(slot)
    _pin(state, frozenset(pinned))
    state.kept.wake_all(program.steps)
    _run(state)
    while _round_up(state):
        _run(state)
    return state


def _run(state: State) -> None:
    while (step := state.kept.next()) is not None:
        rule_of(step)(state, step)
        for slot in state.program.read_by(step):
            _keep_fixed(state, slot)


def _pin(state: State, pinned: frozenset[str]) -> None:
    program = state.program
    for slot, names in (*program.parameters.items(), *program.buffers.items()):
        if any(_under(name, pinned) for name in names):
            state.kept.keep_all(slot)
    for step in program.steps:
        if step.node.name in pinned or _under(f"{step.module}.{step.node.name}", pinned):
            for slot in (*program.read_by(step), *program.written_by(step)):
                state.kept.keep_all(slot)


def _keep_fixed(state: State, slot: Slot) -> None:
    """Keep inputs, and constants that the code makes itself, as they are once they are needed."""
    program, kept = state.program, state.kept
    if slot.node.op not in ("placeholder", "get_attr") or slot in program.parameters:
        return
    statistics = slot in program.buffers and all(step.op in BATCH_NORMS for step in kept.users(slot))
    if not statistics and any(bool(each.any()) for each in kept.of(slot)):
        kept.keep_all(slot)


def _round_up(state: State) -> bool:
    """Keep one index where none is left of a layer, which runs all the same, and as many in each group of another."""
    kept = state.kept
    for step in state.program.steps:
        if (step.op in CONTRACTIONS or is_convolution(step)) and not state.reached(step):
            _keep_one(state, step)
    for slot in state.program.parameters:
        dims = kept.of(slot)
        if not any(each.any() for each in dims):
            continue
        contracts = any(step.op in CONTRACTIONS or is_convolution(step) for step in kept.users(slot))
        for dim, each in enumerate(dims):
            if not each.any():
                # Kernels, tables and the like stay whole.
                kept.keep(slot, dim, torch.arange(len(each)) == 0 if contracts and dim < 2 else None)
    for grouped in state.grouped.values():
        grouped.even_out(kept)
    return kept.waiting


def _keep_one(state: State, step: Step) -> None:
    """Keep one output of a layer that nothing needs."""
    kept, out = state.kept, Slot(step.node)
    lanes = len(kept.of(out)) - 1 - (spatial_dims(step) if is_convolution(step) else 0)
    for dim, each in enumerate(kept.of(out)):
        if not each.any():
            kept.keep(out, dim, torch.arange(len(each)) == 0 if dim == lanes else None)


def _under(name: str, modules: frozenset[str]) -> bool:
    """Whether a parameter or an operation belongs to one of the modules, or to one inside it."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in modules for count in range(len(parts)))
