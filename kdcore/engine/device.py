"""Where a run computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import Place, RunError, suggestion


def choose_device(name: str, place: Place = Place()) -> torch.device:
    """Return the device called `name`; `auto` is an accelerator where there is one."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = str(error).split("\n")[0]
        raise RunError(
            f"device {name!r} cannot be used: {reason}", place=place, repair=suggestion(name, known)
        ) from error
    return device


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor of a batch."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        moved = [to_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
