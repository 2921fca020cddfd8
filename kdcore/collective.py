"""What a loss needs to look across the batches of all processes; in one process it does nothing.

Training in several processes splits each batch. A loss that is a mean over samples need not know. One that
compares samples with one another (a similarity matrix, negatives from the same batch), or that updates
state of its own, gathers first: it then computes from the batch of all processes, and the engine's average
over processes gives the gradient that one process with the whole batch would have had.

Every process must call these alike, in the same order and in every step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

_absent = False


def process_count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _running() else 1


def process_rank() -> int:
    """Return which of them this one is, counted from 0."""
    return dist.get_rank() if _running() else 0


def gather(tensor: Tensor) -> Tensor:
    """Return the rows of all processes in the order of processes, without their gradient.

    Processes may have different numbers of rows (a last batch that does not divide); the other
    dimensions and the dtype agree.
    """
    return torch.cat(_gathered(_own_rows(tensor.detach()))) if process_count() > 1 else tensor.detach()


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Return the rows of all processes in the order of processes; the gradient goes back to each.

    What a process computes from them sends its gradient to the rows of all processes, so the gradients
    of all processes add up at each row.
    """
    if process_count() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(_own_rows(tensor))  # type: ignore[no-untyped-call]
    return gathered


def own_rows(rows: int) -> slice:
    """Return where this process's rows lie in what `gather` returns; every process calls it with its own number."""
    if process_count() == 1:
        return slice(0, rows)
    numbers = _row_numbers(torch.empty(0 if _absent else rows, 0))
    start = sum(numbers[: process_rank()])
    return slice(start, start + numbers[process_rank()])


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without gradient; a new tensor where there are several."""
    if process_count() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


@contextlib.contextmanager
def absent() -> Iterator[None]:
    """Let this process take part in every gathering with no row: it has no sample in the present batch."""
    global _absent  # noqa: PLW0603 - losses are called by models and wrappers that know nothing of it
    _absent = True
    try:
        yield
    finally:
        _absent = False


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all processes; backward sums the gradients of all and returns one's own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = _gathered(tensor.detach())
        start = sum(len(part) for part in parts[: process_rank()])
        ctx.own = slice(start, start + len(tensor))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own]


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def _own_rows(tensor: Tensor) -> Tensor:
    return tensor[:0] if _absent else tensor


def _gathered(tensor: Tensor) -> list[Tensor]:
    """Return the rows of every process; shorter ones travel padded, because all must send as much."""
    numbers = _row_numbers(tensor)
    longest = max(numbers)
    sent = tensor.new_zeros(longest, *tensor.shape[1:], device=_device(tensor))
    sent[: len(tensor)] = tensor
    received = [torch.empty_like(sent) for _ in numbers]
    dist.all_gather(received, sent)
    return [part[:number].to(tensor.device) for part, number in zip(received, numbers, strict=True)]


def _row_numbers(tensor: Tensor) -> list[int]:
    own = torch.tensor([len(tensor)], device=_device(tensor))
    received = [torch.empty_like(own) for _ in range(process_count())]
    dist.all_gather(received, own)
    return [int(each) for each in torch.cat(received).tolist()]


def _device(tensor: Tensor) -> torch.device:
    """Return where a tensor must lie to be sent: NCCL sends from its GPU alone."""
    if dist.get_backend() == "nccl" and tensor.device.type != "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device
