"""Computing in the precision of the inputs, where autocast would choose a lower one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss's `forward`, or a hand-written `backward`, so that autocast changes nothing within.

    Autocast multiplies matrices in float16 or bfloat16 even where both are float32. The first ends at 65504, which
    the products of a Gram matrix exceed; the second keeps 8 bits, and differences of such products none. What comes
    in half precision stays so: convert it, to `torch.promote_types(x.dtype, torch.float32)`.

    The device is that of the first argument that is a tensor; without one, or with autocast off, nothing is done.
    """

    @functools.wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        for each in (*args, *kwargs.values()):
            if isinstance(each, Tensor):
                if not _casts(each.device.type):
                    break
                with torch.autocast(each.device.type, enabled=False):
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return outside


def _casts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
