"""Which terms and samples a value or gradient comes from that is not finite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.pipeline.objective import Objective


def blame_terms(
    objective: Objective, batch: Mapping[str, Any], parameters: Sequence[nn.Parameter]
) -> dict[str, list[int]]:
    """Run a batch again; return the terms that are not finite or have such a gradient, each with its samples.

    They are the rows of the gradient of the term's inputs that are not finite; none where these cannot tell. Each term
    has a pass of its own, since not every graph can be gone through twice.

    Raises:
        RuntimeError: autograd cannot look at a term by itself, as under reentrant checkpointing.
    """
    found: dict[str, list[int]] = {}
    values, inputs = _terms(objective, batch)
    for number, name in enumerate(list(values)):
        if number:
            values, inputs = _terms(objective, batch)
        value, own = values[name], inputs.get(name, [])
        gradients: Sequence[Tensor | None] = ()
        if value.requires_grad:
            gradients = torch.autograd.grad(value, [*own, *parameters], allow_unused=True)
        if not are_finite([value, *gradients]):
            found[name] = _samples([each for each in gradients[: len(own)] if each is not None], batch["index"])
    return found


def wrong_entries(batch: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the entries of a batch that are not finite, each with the samples where they are not."""
    entries = {name: value for name, value in batch.items() if isinstance(value, Tensor) and not are_finite([value])}
    return {name: _samples([value], batch["index"]) for name, value in entries.items()}


def are_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all numbers of all tensors are finite; waits for the device."""
    return all(bool(each.detach().isfinite().all()) for each in tensors if each is not None)


def _terms(objective: Objective, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """Return every term with its graph, and the inputs of its loss that a gradient reaches."""
    inputs: dict[str, list[Tensor]] = {}
    with contextlib.ExitStack() as hooks:
        for term in objective.terms:

            def note(_: nn.Module, args: Any, kwargs: Any, name: str = term.name) -> None:
                inputs[name] = [each for each in _tensors([args, kwargs]) if each.requires_grad]

            hooks.callback(term.loss.register_forward_pre_hook(note, with_kwargs=True).remove)
        return objective.term_values(batch), inputs


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _samples(tensors: Iterable[Tensor], index: Tensor) -> list[int]:
    """Return the samples whose rows are not finite, in those tensors that have as many rows for each."""
    found: set[int] = set()
    for each in tensors:
        rows = each.shape[0] if each.dim() else 0
        if rows and rows % len(index) == 0:
            sound = each.isfinite().reshape(len(index), -1).all(1)
            found.update(index[~sound.to(index.device)].tolist())
    return sorted(found)
