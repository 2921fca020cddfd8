"""How each operation ties what is kept of its inputs to what is kept of its outputs."""

from __future__ import annotations

from collections.abc import Callable

from kdcore.compaction.layers import (
    attention,
    batch_norm,
    convolution,
    embedding,
    group_norm,
    layer_norm,
    linear,
    matmul,
    unknown,
)
from kdcore.compaction.moves import structural
from kdcore.compaction.operations import (
    BATCH_NORMS,
    GROUP_NORMS,
    MATMULS,
    NORMS,
    REDUCTIONS,
    SOFTMAX,
    STRUCTURAL,
    is_convolution,
    is_pointwise,
    is_spatial,
    spatial_dims,
)
from kdcore.compaction.program import Slot, Step
from kdcore.compaction.state import State

Rule = Callable[[State, Step], None]


def rule_of(step: Step) -> Rule:
    """Return the rule of a step; an operation that is not known keeps everything around it."""
    named: dict[str, Rule] = {
        "linear": linear,
        "embedding": embedding,
        "scaled_dot_product_attention": attention,
        "prelu": _prelu,
    }
    families: list[tuple[bool, Rule]] = [
        (step.op in STRUCTURAL, structural),
        (is_convolution(step), convolution),
        (step.op in BATCH_NORMS, batch_norm),
        (step.op in NORMS, layer_norm),
        (step.op in GROUP_NORMS, group_norm),
        (step.op in MATMULS, matmul),
        (is_spatial(step), _spatial),
        (step.op in REDUCTIONS or step.op in SOFTMAX, _reduction),
        (is_pointwise(step), _pointwise),
    ]
    return named.get(step.op) or next((rule for fits, rule in families if fits), unknown)


def _pointwise(state: State, step: Step) -> None:
    state.broadcast(state.program.read_by(step), Slot(step.node))


def _prelu(state: State, step: Step) -> None:
    kept, out, weight = state.kept, Slot(step.node), state.needed(step, "weight")
    state.broadcast([state.needed(step, "self")], out)
    if len(kept.of(weight)[0]) > 1:
        kept.tie((weight, 0), (out, min(1, len(kept.of(out)) - 1)))
    elif kept.reached(out):
        kept.keep_all(weight)


def _spatial(state: State, step: Step) -> None:
    """Tie batch and channels; keep all of space."""
    kept, x = state.kept, state.program.read_by(step)[0]
    out, *others = state.program.written_by(step)
    first = len(kept.of(out)) - spatial_dims(step)
    for dim in range(first):
        kept.tie((x, dim), (out, dim))
    if kept.reached(out):
        for slot in (x, out):
            for dim in range(first, len(kept.of(slot))):
                kept.keep(slot, dim)
    if any(kept.reached(each) for each in others):
        unknown(state, step)


def _reduction(state: State, step: Step) -> None:
    """Keep all of what is summed, compared or normalised over; tie the rest."""
    kept, out = state.kept, Slot(step.node)
    x, dims = state.tensor(step, "self"), step.arguments.get("dim")
    if dims is None or x is None:
        unknown(state, step)
        return
    count = len(kept.of(x))
    over = {int(each) % count for each in (dims if isinstance(dims, (list, tuple)) else [dims])}
    stays = step.op in SOFTMAX or bool(step.arguments.get("keepdim"))
    place = 0
    for dim in range(count):
        if dim not in over:
            kept.tie((x, dim), (out, place))
        elif kept.reached(out):
            kept.keep(x, dim)
            if stays:
                kept.keep(out, place)
        place += stays or dim not in over
