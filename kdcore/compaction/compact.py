"""A physically smaller model with the same outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.compaction.call import Call, calls_of
from kdcore.compaction.check import first_difference, largest_difference
from kdcore.compaction.costs import measure
from kdcore.compaction.couplings import settle
from kdcore.compaction.program import Slot, record, tracked
from kdcore.compaction.report import Report, changes, zero_rows
from kdcore.compaction.resize import Plan, Resized, apply, changed_nodes, plan
from kdcore.compaction.state import State
from kdcore.compaction.variation import Variation
from kdcore.errors import KdcoreError, WeightsError, WiringError
from kdcore.pipeline.diagnosis import reason

TOLERANCE = 1e-5

# Enough to tell the batch from other dimensions; the analysis holds for any number of rows.
_ROWS = 2
_ATTEMPTS = 20
_SHOWN = 5


class NothingToRemoveError(WeightsError):
    """No channel, neuron or head is without effect."""


@dataclass(frozen=True)
class CompactModel:
    """A smaller model, what is different in it, and the report."""

    model: nn.Module
    modules: Mapping[str, Resized]
    report: Report = field(repr=False)

    def save(self, folder: str | Path, *, type: str | None = None, params: Mapping[str, Any] | None = None) -> Path:
        """Write model.safetensors and compact.json into a new folder; `kdcore.load_compact` reads them.

        Arguments:
            folder: must not exist yet, or be empty.
            type: the model's type as a config names it; without it `load_compact` needs the original model.
            params: those it was built with.
        """
        from kdcore.compaction.saved import save

        return save(self, Path(folder), type, params or {})


def compact(
    model: nn.Module, example_inputs: Any, *, check_inputs: Sequence[Any] = (), tolerance: float = TOLERANCE
) -> CompactModel:
    """Remove the channels, neurons and attention heads of a model that have no effect on its outputs.

    What goes contributes exactly 0 to everything that stays, or a constant that moves into a bias. The result is meant
    for evaluation; the model that is given stays as it is.

    Arguments:
        model: with zeros in place, as pruning leaves them.
        example_inputs: a real batch: a tensor, a tuple of positional arguments or a mapping of keywords.
        check_inputs: more batches on which the outputs are compared.
        tolerance: the largest difference of outputs that is accepted, relative to the largest output.

    Raises:
        NothingToRemoveError: everything has an effect.
        WiringError: the model cannot be traced, or the smaller one does not yield the same.
    """
    calls = [each.mapped(_as_float) for each in (Call.of(example_inputs), *calls_of(check_inputs))]
    original = _copied(model)
    small, made, state, messages = _shrunk(original, calls[0])
    difference = _checked(original, small, calls, state, tolerance)
    result = copy.deepcopy(model)
    apply(result, made.modules, made.tensors)
    report = Report(
        measure(original, calls[0]),
        measure(small, calls[0]),
        difference,
        len(calls),
        changes(original, made),
        zero_rows(small),
        made.folded,
        messages,
    )
    return CompactModel(result, made.modules, report)


def _shrunk(original: nn.Module, call: Call) -> tuple[nn.Module, Plan, State, list[str]]:
    """Return a smaller copy that runs; modules that count on their size stay as they are, which the messages say."""
    rows = call.rows(_ROWS)
    program = record(original, rows.args, rows.kwargs or {})
    variation = Variation(program)
    pinned: set[str] = set()
    messages: list[str] = []
    while True:
        state = settle(program, variation, original, pinned)
        made = plan(original, state)
        if not made.modules:
            raise _nothing(original, messages)
        small = copy.deepcopy(original)
        apply(small, made.modules, made.tensors)
        failed = _failure(small, call)
        if failed is None:
            return small, made, state, messages
        module, error = failed
        found = set(changed_nodes(state, module)) - pinned or {module}
        if found <= pinned or len(messages) == _ATTEMPTS:
            what = f"the compact model fails in {module or 'its own forward'!r}: {reason(error)}"
            raise WiringError(
                "; ".join([*messages, what]),
                repair="that module computes with a size it was built with; read it from the tensor's shape instead",
            ) from error
        pinned |= found
        where = f"around {module}" if module else "where the model's own forward moves elements"
        messages.append(f"{where} all sizes stay as they are, because a smaller one fails there: {reason(error)}")


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode and in a precision in which outputs can be compared."""
    try:
        twin = copy.deepcopy(model).cpu().eval()
    except Exception as error:  # a module may hold anything, and copying that may fail in any way
        raise WiringError(f"{type(model).__name__} cannot be copied: {reason(error)}") from error
    low = (torch.float16, torch.bfloat16)
    return twin.float() if any(each.dtype in low for each in twin.parameters()) else twin


def _as_float(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _failure(model: nn.Module, call: Call) -> tuple[str, Exception] | None:
    """Return the module in which a forward pass fails, and the error."""
    with tracked(model) as path:
        try:
            call.run(model)
        except KdcoreError:
            raise
        except Exception as error:  # a module that counts on its old size may fail in any way
            return path.deepest, error
    return None


def _checked(original: nn.Module, small: nn.Module, calls: Sequence[Call], state: State, tolerance: float) -> float:
    largest = 0.0
    for call in calls:
        difference = largest_difference(call.run(original), call.run(small))
        if difference > tolerance:
            where = first_difference(original, small, call, _kept_outputs(state), tolerance)
            raise WiringError(
                f"the compact model's outputs differ from the masked model's by {difference:.1e} of the largest, more "
                f"than {tolerance:g}" + (f"; the first module that differs is {where!r}" if where else ""),
                repair="something computes with a number of channels, not only with their values (a mean over them, a "
                "scale); nothing was written. Leave those channels out of pruning",
            )
        largest = max(largest, difference)
    return largest


def _kept_outputs(state: State) -> dict[str, list[Tensor]]:
    """Return what is kept of the output of each module that runs operations itself."""
    return {step.module: state.kept.of(Slot(step.node)) for step in state.program.steps}


def _nothing(model: nn.Module, messages: Sequence[str]) -> NothingToRemoveError:
    weights = [each.detach() for each in model.parameters() if each.dim() > 1]
    zeros, count = sum(int((each == 0).sum()) for each in weights), sum(each.numel() for each in weights)
    rows = zero_rows(model)
    what = f"nothing can be removed: {100 * zeros / max(1, count):.0f} % of the weights are 0"
    if rows:
        some = ", ".join(f"{name} ({each})" for name, each in list(rows.items())[:_SHOWN])
        what += f", among them whole outputs of {some}, but each of these is still needed"
        repair = (
            "an output of zeros still emits its bias or its normalisation's shift, and what is added to others needs "
            "its place; zero those too, as the pattern filter does"
        )
    else:
        what += ", but they make up no whole channel, neuron or head"
        repair = "prune with pattern: filter, input_channel or head"
    return NothingToRemoveError("; ".join([what, *messages]), repair=repair)
