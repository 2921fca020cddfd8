"""What the samples of a batch have to do with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdcore.component import Kind
from kdcore.testing.check import LOSSES, MODULES, check
from kdcore.testing.checks.basics import BASICS
from kdcore.testing.nested import floating, mapped, tensors
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import BATCH, Subject, mean_of, shown

# By what it returns: another check says so where float64 inputs give float32.
RELATIVE = {torch.float64: 1e-7, torch.float32: 1e-4}
ABSOLUTE = 1e-9
# What holds for a batch of four may not hold for the fifth sample, or for a last one that has no partner.
ODD, HALF = 9, 4
ORDER = 5


@check(MODULES - {Kind.BALANCER}, "the order of the samples does not matter", optional=True, after=BASICS)
def batch_order(subject: Subject) -> None:
    """Permute the samples of all inputs alike, in float64, of a small batch and of a larger one of odd size."""
    for batch in (BATCH, ODD):
        _check_order(subject, batch)


def _check_order(subject: Subject, batch: int) -> None:
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(ORDER))
    inputs = subject.inputs(batch=batch, dtype=torch.float64)
    permuted = _selected(subject, inputs, order, batch)
    rows = batch * subject.given.rows_per_sample
    sizes = {each.shape[:1] for each in tensors(inputs)}
    if not sizes & {(batch,), (rows,)} and not subject.given.batch_dims:
        raise NotApplicable("none of its inputs has samples")
    one = subject.call(subject.build(torch.float64, batch, prepared=True), inputs)
    other = subject.call(subject.build(torch.float64, batch, prepared=True), permuted)
    if subject.kind in LOSSES:
        _compare(mean_of(one), mean_of(other), f"the {batch} samples permuted alike in all inputs")
        return
    for first, second in zip(floating(one), floating(other), strict=True):
        if first.shape[:1] not in {(batch,), (rows,)}:
            continue
        if not _close(_rows(subject, first, 0, order, batch), second):
            raise Finding(
                f"with the {batch} samples permuted the output is not that of before, permuted: rows depend on their "
                "place"
            )


@check(LOSSES, "two halves of a batch, accumulated, give what the whole gives", optional=True, after=BASICS)
def halves(subject: Subject) -> None:
    """Compare the whole's value with that of the halves, weighted by counts or else alike, in float64."""
    for batch in (BATCH, 2 * HALF):
        _check_halves(subject, batch)


def _check_halves(subject: Subject, batch: int) -> None:
    inputs = subject.inputs(batch=batch, dtype=torch.float64)
    half = batch // 2
    parts = [_selected(subject, inputs, torch.arange(start, start + half), batch) for start in (0, half)]
    whole = subject.call(subject.build(torch.float64, batch, prepared=True), inputs)
    results = [subject.call(subject.build(torch.float64, batch, prepared=True), part) for part in parts]
    if isinstance(whole, tuple):
        joined = sum(each[0] for each in results) / (sum(each[1] for each in results) or 1)
    else:
        joined = sum(mean_of(each) for each in results) / len(results)
    if not _close(torch.as_tensor(joined), mean_of(whole)):
        raise Finding(
            f"the whole batch of {batch} gives {shown(mean_of(whole))}, its halves together "
            f"{shown(joined)}: with accumulate or several processes training would differ. Average over samples, or "
            "return (sum, count); a loss that "
            'compares samples with each other skips "halves" and says so'
        )


@check(LOSSES, "tensors that do not fit together are refused, not broadcast", optional=True, after=BASICS)
def broadcast_refused(subject: Subject) -> None:
    """Give the other inputs one row where the student's has several."""
    others = [*subject.fixed, *(name for name in subject.inputs() if name in ("target", "input2"))]
    tried = False
    for name in dict.fromkeys(others):
        inputs = subject.inputs()
        if not isinstance(inputs[name], Tensor) or name in subject.learns or subject.batch_dim(name) is None:
            continue
        tried = True
        dim = subject.batch_dim(name) or 0
        inputs[name] = inputs[name].narrow(dim, 0, 1)
        try:
            result = subject.call(subject.build(), inputs)
        except Exception:  # noqa: S112 - any refusal will do; the core adds the term and the shapes
            continue
        raise Finding(
            f"input {name} had 1 row and the others {BATCH}, and it returned {shown(mean_of(result))}: "
            "broadcasting hides a wrong address. kdcore.shapes.check_same_shape and check_same_batch raise with "
            "names and shapes"
        )
    if not tried:
        raise NotApplicable("there are no two tensors to compare")


def _selected(subject: Subject, inputs: Mapping[str, Any], index: Tensor, batch: int) -> dict[str, Any]:
    """Return the inputs, of `batch` samples, with those of `index` only."""

    def pick(name: str) -> Any:
        dim = subject.batch_dim(name)
        return lambda each: (
            each if dim is None or each.dim() <= dim else _rows(subject, each.detach(), dim, index, batch)
        )

    return {name: mapped(pick(name), value) for name, value in inputs.items()}


def _rows(subject: Subject, value: Tensor, dim: int, index: Tensor, batch: int) -> Tensor:
    """Return the rows of some samples; where each has several, they stand one after the other."""
    each = subject.given.rows_per_sample
    if each > 1 and value.shape[dim] == batch * each:
        index = (index.unsqueeze(1) * each + torch.arange(each)).flatten()
    return value.index_select(dim, index)


def _compare(one: Tensor, other: Tensor, how: str) -> None:
    if not _close(one, other):
        raise Finding(
            f"it returns {shown(one)}, and with {how} {shown(other)}: the order of a batch is chance. If "
            'it is meant to count, skip "batch_order" and say why'
        )


def _close(one: Tensor, other: Tensor) -> bool:
    relative = RELATIVE.get(other.dtype, RELATIVE[torch.float32])
    return torch.allclose(one.to(other.dtype), other, rtol=relative, atol=ABSOLUTE)
