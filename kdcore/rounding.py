"""What rounding leaves where the exact result is nothing."""

from __future__ import annotations

import math

import torch


def length_left(count: int, dtype: torch.dtype) -> float:
    """Return the greatest length that `count` equal numbers may keep, by rounding, once their mean is subtracted.

        sqrt(count) (1 + log2(count)) eps          in units of the mean's magnitude

    Added up in pairs they are off by a rounding for each of log2(count) levels, all by the same; one more allows for
    numbers that are equal up to their last digit, as those of a softmax. Whatever centres vectors and then divides by
    their length should take those no longer than this for constant: their direction is noise, and the gradient is
    divided by the length.

    Arguments:
        count: how many numbers the mean is of, 1 or more.
        dtype: the floating dtype in which it is computed.
    """
    return math.sqrt(count) * (1 + math.log2(count)) * torch.finfo(dtype).eps
