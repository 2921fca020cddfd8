"""Floating point numbers in 8 bits each, on a grid that every group of them has for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import WiringError
from kdcore.pipeline.diagnosis import describe

INT8 = "int8"

_STEPS = 254
_LOWEST, _HIGHEST, _MINUS_INFINITY = -127, 127, -128

# Below it the pixels of a whole channel share a grid, whose ends would otherwise take more than an eighth of the room.
_SHORT = 64

# Makes the last step reach the largest value whatever is rounded on the way, so that it can be cut to be it exactly.
_WIDER = 1 + 2**-21


def group_length(shape: tuple[int, ...]) -> int:
    """Return how many values of one row share a grid.

    They are the last dimension: the classes of a sample or of a position, the features of a token. Of
    three and more dimensions, the last of which has fewer than 64 values, they are the last two: the
    pixels of a channel. Dimensions of length 1 at the end do not count.
    """
    sizes = list(shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    channel = len(sizes) > 2 and sizes[-1] < _SHORT
    return math.prod(sizes[-2:] if channel else sizes[-1:])


@dataclass(frozen=True)
class Quantizer:
    """Affine quantisation of groups to 255 levels, from the smallest value of a group to its largest.

        q = round(254 (x - min) / (max - min)),   x' = min + q / 254 (max - min)

    An error is at most (max - min) / 508, besides the rounding of x' to the model's own dtype. The smallest and the
    largest value come back exactly and the order is kept, so the largest stays the largest, though others close to it
    may become equal to it. A group of equal values comes back exactly. Minus infinity, as in the logits of
    classes that a mask leaves out, has a code of its own and no part in the ends of its group.

    What comes back is a matter of single roundings alone, so it is the same in every batch and on every device,
    and quantising it again yields the same codes.

    Arguments:
        dtype: of the numbers outside, and of the two ends of each group.
        group: values per group; they follow each other in memory.
    """

    dtype: torch.dtype
    group: int

    @property
    def saves_room(self) -> bool:
        """Whether codes and ends take less than the numbers themselves."""
        return self.group + 2 * self.dtype.itemsize < self.group * self.dtype.itemsize

    def quantize(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends (..., 2) of all groups and the codes, one int8 for each value.

        Raises:
            WiringError: a value is NaN or plus infinity, or those of a group are so far apart that their
                difference overflows.
        """
        groups = value.reshape(-1, self.group).to(self._wide)
        if not (groups < math.inf).all():
            raise WiringError(
                f"a value of {'nan' if groups.isnan().any() else 'inf'} cannot be stored as {INT8}",
                repair="find out why the model yields it, or write dtype: as_is, which keeps it",
            )
        masked = groups == -math.inf
        low = groups.masked_fill(masked, math.inf).amin(dim=-1, keepdim=True)
        low, high = low.nan_to_num(posinf=0.0), groups.amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
        span = high - low
        apart = (span * _WIDER).isinf()
        if apart.any():
            raise WiringError(
                f"values from {float(low[apart][0]):g} to {float(high[apart][0]):g} are too far apart for {INT8}",
                repair="write dtype: as_is; if the small ones are a mask, let the model mask with -inf",
            )
        place = torch.where(span > 0, (groups - low) / span, 0.0)
        codes = (place * _STEPS).round().add(_LOWEST).masked_fill(masked, _MINUS_INFINITY)
        return torch.cat([low, high], dim=-1).to(self.dtype), codes.to(torch.int8)

    def dequantize(self, ends: Tensor, codes: Tensor) -> Tensor:
        """Return the numbers (..., group) for which codes of that shape stand; `ends` is (..., 2)."""
        wide = ends.to(self._wide)
        low, high = wide[..., :1], wide[..., 1:]
        value = codes.to(self._wide).sub_(_LOWEST).mul_(1 / _STEPS).mul_((high - low) * _WIDER).add_(low)
        value = torch.minimum(value, high, out=value)
        # To look first saves most of the time on a CPU, and would make a GPU wait.
        if codes.device.type != "cpu" or codes.amin() == _MINUS_INFINITY:
            value = value.masked_fill_(codes == _MINUS_INFINITY, -math.inf)
        return value.to(self.dtype)

    def check(self, value: Tensor) -> None:
        """Raise WiringError if in most groups outliers are so large that next to nothing is left of the other values.

        A mask of a large finite number is the usual reason, or a few features that are thousands of times the others.
        """
        ends, codes = self.quantize(value)
        low, high = ends.to(self._wide).unbind(dim=-1)
        # Steps that are wide for any logits or features, and hardly a value that is not at an end.
        crowded = (high - low > 4 * _STEPS) & (codes.to(torch.int16).abs() >= _HIGHEST - 1).all(dim=-1)
        if crowded.sum() <= len(crowded) / 2:
            return
        # More different values than there are codes at the ends.
        lost = value.reshape(-1, self.group)[crowded].sort(dim=-1).values.diff(dim=-1).gt(0).sum(dim=-1) > 4
        if lost.sum() > len(crowded) / 2:
            low, high = ends[crowded][lost][0].tolist()
            raise WiringError(
                f"{INT8} leaves next to nothing of {describe(value)}: the values of a group reach from {low:g} to "
                f"{high:g}, and all of them lie within a step of {(high - low) / _STEPS:.2g} of these two",
                repair="if it is a mask, let the model mask with -inf, which has a code of its own; else write "
                "dtype: bfloat16 or float16",
            )

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)
