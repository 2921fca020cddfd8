"""The rule of operations that only move elements: views, permutations, concatenation, splitting, padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from kdcore.compaction.operations import CHOICES, CUTS, SPLITS, any_but, run_on
from kdcore.compaction.program import Slot, Step
from kdcore.compaction.state import Moves, State

# Larger ones are made anew each time: all of them together could be larger than the model.
_REMEMBERED = 2**20


def structural(state: State, step: Step) -> None:
    """Follow every element, and keep the smallest rectangle around what is kept on the other side.

    So a width that is split into heads keeps whole heads, and a flattened image whole channels.
    """
    kept, outputs = state.kept, state.program.written_by(step)
    if not any(any(bool(each.any()) for each in kept.of(slot)) for slot in outputs):
        return
    if not any(kept.changed(slot) for slot in (*state.program.read_by(step), *outputs)):
        return
    moves = _moves(state, step)
    boxes = [kept.box(slot).expand(state.value(slot).shape).flatten() for slot, _, _ in moves.read]
    # The last stands for -1, what padding adds.
    held = torch.cat([*boxes, torch.zeros(1, dtype=torch.bool)])
    needed = torch.zeros_like(held)
    for slot, source in zip(outputs, moves.sources, strict=True):
        kept.keep_box(slot, held[source])
        if kept.reached(slot):
            for dim in _padded_dims(source):
                kept.keep(slot, dim, ~any_but(source != -1, dim))
            needed[source[kept.box(slot).expand(source.shape)]] = True
    for slot, start, end in moves.read:
        kept.keep_box(slot, needed[start:end].view(state.value(slot).shape))
    if state.reached(step):
        _keep_counted(state, step, moves.read[0][0], outputs)


def _keep_counted(state: State, step: Step, x: Slot, outputs: list[Slot]) -> None:
    """Keep what the code counts off: of choices by number everything, of splits into equal parts the same of each."""
    kept, dim = state.kept, step.arguments.get("dim", 0)
    if step.op in CHOICES:
        whole = step.op in CUTS and state.value(outputs[0]).numel() == state.value(x).numel()
        if not whole:
            kept.keep(x, int(dim) % len(kept.of(x)))
    elif step.op in SPLITS:
        own = int(dim) % len(kept.of(x))
        if len({len(kept.of(each)[own]) for each in outputs}) == 1:
            for each in outputs[1:]:
                kept.tie((outputs[0], own), (each, own))
        elif not isinstance(state.model.get_submodule(step.module), nn.MultiheadAttention):
            # torch's own attention is replaced as a whole.
            kept.keep(x, own)


def _moves(state: State, step: Step) -> Moves:
    if step.node in state.moves:
        return state.moves[step.node]
    read: list[tuple[Slot, int, int]] = []

    def numbered(node: fx.Node) -> Any:
        slot = state.program.slot(node)
        start = read[-1][2] if read else 0
        end = start + state.value(slot).numel()
        read.append((slot, start, end))
        return torch.arange(start, end).view(state.value(slot).shape)

    result = run_on(step, numbered, -1)
    moves = Moves(read, list(result) if isinstance(result, (list, tuple)) else [result])
    if sum(each.numel() for each in moves.sources) <= _REMEMBERED:
        state.moves[step.node] = moves
    return moves


def _padded_dims(source: Tensor) -> list[int]:
    """Return the dimensions along which padding adds whole slices."""
    moved = source != -1
    return [] if moved.all() else [dim for dim in range(moved.dim()) if not any_but(moved, dim).all()]
