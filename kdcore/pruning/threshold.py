"""The k-th smallest of many scores, with one copy of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Comparisons are made so many scores at a time, which bounds the memory they take besides the one copy.
_CHUNK = 1 << 22


class Pool:
    """The scores of several layers in one vector that may be reordered: the one copy that selection makes."""

    def __init__(self, scores: Sequence[Tensor]) -> None:
        dtype = torch.float64 if any(each.dtype is torch.float64 for each in scores) else torch.float32
        self.vector = torch.empty(sum(each.numel() for each in scores), dtype=dtype, device=scores[0].device)
        self.bounds = [0]
        for each in scores:
            self.bounds.append(self.bounds[-1] + each.numel())
        self.fill(scores)

    def fill(self, scores: Sequence[Tensor]) -> None:
        """Copy the scores in, in their order."""
        for each, start, end in zip(scores, self.bounds, self.bounds[1:], strict=False):
            self.vector[start:end].copy_(each.reshape(-1))

    def narrow(self, low: Sequence[int], high: Sequence[int]) -> Tensor:
        """Leave out the `low` smallest of each layer, and all above its `high` smallest; return the rest, in place."""
        end = 0
        for index, (least, most) in enumerate(zip(low, high, strict=True)):
            scores = self.vector[self.bounds[index] : self.bounds[index + 1]]
            for border in (least, most):
                if 0 < border < len(scores):
                    _part(scores, border)
            for middle in torch.split(scores[least:most], _CHUNK):
                # It moves to the front, perhaps over itself, so a chunk at a time by way of a copy.
                self.vector[end : end + len(middle)] = middle.clone()
                end += len(middle)
        return self.vector[:end]


def kth_smallest(vector: Tensor, k: int) -> float:
    """Return the k-th smallest value, counted from 1; `vector` may be reordered."""
    if vector.device.type == "cpu":
        _part(vector, k)
        return float(vector[k - 1])
    return float(vector.kthvalue(k).values)


def _part(vector: Tensor, k: int) -> None:
    """Reorder a vector so that the k smallest come first, the largest of them last."""
    if vector.device.type == "cpu":
        # NumPy's selection works in place and many times as fast as torch's, which also copies values and indices.
        vector.detach().numpy().partition(k - 1)
    else:
        vector.copy_(vector.sort().values)


def chunks(scores: Tensor) -> Iterator[Tensor]:
    """Yield the flat scores in pieces that may be compared as a whole."""
    flat = scores.reshape(-1)
    if len(flat) <= _CHUNK:
        yield flat
        return
    yield from torch.split(flat, _CHUNK if scores.device.type == "cpu" else 16 * _CHUNK)


def around(scores: Tensor, threshold: float) -> tuple[int, int]:
    """Return how many scores lie below a threshold, and how many below or on it."""
    below, up_to = 0, 0
    for each in chunks(scores):
        below += int(torch.count_nonzero(each < threshold))
        up_to += int(torch.count_nonzero(each <= threshold))
    return below, up_to
