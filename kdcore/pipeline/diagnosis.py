"""What to say of a value or an exception that somebody else's code came with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kdcore.pipeline.lookup import failed_lookup

DEVICE_ASSERT = "device-side assert"
DEAD_WORKER = "DataLoader worker (pid"
_CPU_ALLOCATOR = "DefaultCPUAllocator"

_SHOWN = 4

MORE_SAMPLES = (
    "raise batch_size; where only the last batch of an epoch is that short, drop_last: true leaves that one out"
)


def describe(value: Any) -> str:
    """Return shapes and types of a value, for messages."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{_range(value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        more = f", ... {len(value)} in all" if len(value) > _SHOWN else ""
        return "(" + ", ".join(describe(item) for item in islice(value, _SHOWN)) + more + ")"
    return type(value).__name__


def reason(error: BaseException) -> str:
    """Return what an exception says: a ValueError is written for users, others say little without their type."""
    lookup = failed_lookup(error)
    if lookup is not None:
        return str(lookup)
    text = str(error).strip()
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def of_device(error: Exception) -> bool:
    """Whether a device has refused or a worker has died, which may be reported in anybody's code."""
    return of_memory(error) or any(each in str(error) for each in (DEVICE_ASSERT, DEAD_WORKER))


def of_memory(error: BaseException) -> bool:
    """Whether a tensor found no room, on an accelerator or on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _CPU_ALLOCATOR in str(error)


def _range(value: Tensor) -> str:
    # Labels and tokens out of range are the commonest fault; reading them off a device could fail once more.
    whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if not whole or value.device.type != "cpu" or not value.numel():
        return ""
    low, high = value.aminmax()
    return f" of {int(low)} to {int(high)}"
