"""Where a run computes, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import Place, RunError, suggestion
from kdcore.pipeline.cached import HOST_INDEX
from kdcore.pipeline.diagnosis import DEAD_WORKER, DEVICE_ASSERT, of_memory


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
            f"device {name!r} cannot be used: {reason}", place=place, repair=suggestion(name, known, noun="devices")
        ) from error
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context of a stage's precision."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Say in our words what no part of a stage is to blame for: memory, an index on a device, a dead worker.

    Memory that runs out while a stage runs is told with more detail by the stage.
    """
    try:
        yield
    except RuntimeError as error:
        if DEAD_WORKER in str(error):
            raise RunError(
                f"a worker process of a loader died: {error}",
                repair="is there memory enough? lower num_workers; num_workers: 0 shows whether a sample is the cause",
            ) from error
        if of_memory(error):
            raise RunError(
                f"out of memory: {str(error).split(' GPU ')[0].strip()}", repair="use smaller models, or another device"
            ) from error
        if DEVICE_ASSERT not in str(error):
            raise
        raise RunError(
            "the device met an index out of range, for example a label without a class or a token without a row",
            repair="run with --set device=cpu to see where; the device cannot say",
        ) from error


def batch_to_device(batch: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    """Move a batch; its indices stay on the host too, where a cache reads them without waiting for the device."""
    return batch if device.type == "cpu" else {**to_device(batch, device), HOST_INDEX: batch["index"]}


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor of a batch; loaders leave batches on the CPU."""
    if device.type == "cpu":
        return value
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        moved = [to_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
