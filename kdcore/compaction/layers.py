"""The rules of layers: contractions with weights, normalisation, attention."""

from __future__ import annotations

from torch import Tensor

from kdcore.compaction.convolution import Grouped
from kdcore.compaction.operations import spatial_dims
from kdcore.compaction.program import Slot, Step
from kdcore.compaction.state import State

_FACTORS = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "matmul": ("self", "other")}


def unknown(state: State, step: Step) -> None:
    """Keep everything around an operation whose meaning is not known here."""
    if state.reached(step):
        for slot in (*state.program.read_by(step), *state.program.written_by(step)):
            state.kept.keep_all(slot)


def linear(state: State, step: Step) -> None:
    """Tie outputs and inputs to rows and columns; keep the columns that kept rows need."""
    kept, out = state.kept, Slot(step.node)
    x, weight, bias = state.needed(step, "input"), state.needed(step, "weight"), state.tensor(step, "bias")
    lanes = len(kept.of(x)) - 1
    kept.tie((out, len(kept.of(out)) - 1), (weight, 0))
    kept.tie((x, lanes), (weight, 1))
    if bias is not None:
        kept.tie((weight, 0), (bias, 0))
    if not kept.reached(out):
        return
    for dim in range(lanes):
        kept.tie((x, dim), (out, dim))
    if state.variation.of(weight).any():
        kept.keep(weight, 1)
    else:
        kept.keep(weight, 1, _contracted(state, step, x, lanes, state.value(weight)[kept.of(weight)[0]]))


def convolution(state: State, step: Step) -> None:
    """Tie channels as a linear layer ties features; keep all of space."""
    kept, out = state.kept, Slot(step.node)
    x, weight, bias = state.needed(step, "input"), state.needed(step, "weight"), state.tensor(step, "bias")
    first = len(kept.of(out)) - spatial_dims(step)
    channels, groups = first - 1, int(step.arguments["groups"])
    kept.tie((out, channels), (weight, 0))
    if bias is not None:
        kept.tie((weight, 0), (bias, 0))
    if groups == 1:
        kept.tie((x, channels), (weight, 1))
    if kept.reached(out):
        for dim in range(channels):
            kept.tie((x, dim), (out, dim))
        for slot, start in ((x, first), (out, first), (weight, 2)):
            for dim in range(start, len(kept.of(slot))):
                kept.keep(slot, dim)
    if state.variation.of(weight).any():
        unknown(state, step)
    elif groups > 1:
        if weight not in state.grouped:
            state.grouped[weight] = Grouped(x, channels, weight, groups, state.value(weight))
        nonzero = ~state.variation.zero_lanes(x, channels)
        state.grouped[weight].couple(kept, nonzero, runs=kept.reached(out))
    elif kept.reached(out):
        used = (state.value(weight)[kept.of(weight)[0]] != 0).flatten(2).any(2)
        kept.keep(weight, 1, _contracted(state, step, x, channels, used))


def _contracted(state: State, step: Step, x: Slot, dim: int, weight: Tensor) -> Tensor:
    """Return which inputs are needed: those that may be other than 0 where a kept row's weight is.

    A constant that can move into the bias is not needed.
    """
    needed: Tensor = (weight != 0).any(0) & ~state.variation.zero_lanes(x, dim)
    if needed.any() and state.foldable(step):
        needed = needed & state.variation.constant_lanes(x, dim).isnan()
    return needed


def embedding(state: State, step: Step) -> None:
    """Tie the columns of the table; keep its rows."""
    kept, out = state.kept, Slot(step.node)
    weight = state.needed(step, "weight")
    kept.tie((weight, 1), (out, len(kept.of(out)) - 1))
    if kept.reached(out):
        kept.keep(weight, 0)
        kept.keep_all(state.needed(step, "indices"))
        for dim in range(len(kept.of(out)) - 1):
            kept.keep(out, dim)


def batch_norm(state: State, step: Step) -> None:
    """Tie everything that there is per channel."""
    kept, out = state.kept, Slot(step.node)
    if step.arguments.get("training"):
        unknown(state, step)
        return
    state.broadcast([state.needed(step, "input")], out)
    for name in ("weight", "bias", "running_mean", "running_var"):
        slot = state.tensor(step, name)
        if slot is not None:
            kept.tie((slot, 0), (out, 1))


def layer_norm(state: State, step: Step) -> None:
    """Keep all that mean and variance are over."""
    kept, out = state.kept, Slot(step.node)
    x, count = state.needed(step, "input"), len(step.arguments["normalized_shape"])
    state.broadcast([x], out, count)
    if kept.reached(out) or any(bool(each.any()) for each in kept.of(out)[-count:]):
        slots = [x, out, state.tensor(step, "weight"), state.tensor(step, "bias")]
        for slot in filter(None, slots):
            for back in range(1, count + 1):
                kept.keep(slot, len(kept.of(slot)) - back)


def group_norm(state: State, step: Step) -> None:
    """Keep whole groups: mean and variance are over them."""
    kept, out = state.kept, Slot(step.node)
    groups = int(step.arguments.get("num_groups", step.arguments.get("group")))
    state.broadcast([state.needed(step, "input")], out)
    lanes = kept.of(out)[1]
    kept.keep(out, 1, lanes.view(groups, -1).any(1).repeat_interleave(len(lanes) // groups))
    for name in ("weight", "bias"):
        slot = state.tensor(step, name)
        if slot is not None:
            kept.tie((slot, 0), (out, 1))


def attention(state: State, step: Step) -> None:
    """Tie heads, and the values' width to the output's; keep the width of queries and keys, which sets the scale."""
    kept, out = state.kept, Slot(step.node)
    query, key, value = (state.needed(step, name) for name in ("query", "key", "value"))
    mask = state.tensor(step, "attn_mask")
    shared = [query, key, value]
    if step.arguments.get("enable_gqa"):
        shared = [query]
        _share_heads(state, out, key, value)
    state.broadcast([*shared, *([mask] if mask else [])], out, 2)
    kept.tie((value, len(kept.of(value)) - 1), (out, len(kept.of(out)) - 1))
    if not kept.reached(out):
        return
    for slot in (query, key):
        kept.keep(slot, len(kept.of(slot)) - 1)
    for slot in (query, key, value, out):
        kept.keep(slot, len(kept.of(slot)) - 2)
    if mask is not None:
        for dim in range(max(0, len(kept.of(mask)) - 2), len(kept.of(mask))):
            kept.keep(mask, dim)


def _share_heads(state: State, out: Slot, *sources: Slot) -> None:
    """Keep a head of keys and values with all the queries that share it."""
    kept = state.kept
    heads = len(kept.of(out)) - 3
    for slot in sources:
        count = len(kept.of(slot)[heads])
        kept.keep(slot, heads, kept.of(out)[heads].view(count, -1).any(1))
        kept.keep(out, heads, kept.of(slot)[heads].repeat_interleave(len(kept.of(out)[heads]) // count))
        if kept.reached(out):
            for dim in range(heads):
                kept.keep(slot, dim)


def matmul(state: State, step: Step) -> None:
    """Tie rows and columns; of what is summed over, keep all if both sides vary, else what is not 0 on both."""
    kept, variation, out = state.kept, state.variation, Slot(step.node)
    left, right = (state.needed(step, each) for each in _FACTORS.get(step.op, ("self", "mat2")))
    if min(len(kept.of(left)), len(kept.of(right))) < 2:
        unknown(state, step)
        return
    inner, outer = len(kept.of(left)) - 1, len(kept.of(right)) - 2
    state.broadcast([left, right], out, 2)
    kept.tie((left, inner - 1), (out, len(kept.of(out)) - 2))
    kept.tie((right, outer + 1), (out, len(kept.of(out)) - 1))
    kept.tie((left, inner), (right, outer))
    if step.op in ("addmm", "baddbmm"):
        state.broadcast([state.needed(step, "self")], out)
    if not kept.reached(out):
        return
    if variation.of(left).any() and variation.of(right).any():
        kept.keep(left, inner)
        return
    # A sum over an index is needed only if a kept row and a kept column both hold something there.
    rows = variation.nonzero(left)[..., kept.of(left)[inner - 1], :].flatten(0, -2).any(0)
    columns = variation.nonzero(right)[..., kept.of(right)[outer + 1]].movedim(-2, 0).flatten(1).any(1)
    kept.keep(left, inner, rows & columns)
