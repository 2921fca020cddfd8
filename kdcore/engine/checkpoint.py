"""Checkpoints: the Objective's tensors in safetensors, the rest of the training state beside them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

TENSORS = "objective.safetensors"
STATE = "state.pt"


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write named tensors atomically; tied tensors are written once per name, so any class can load them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if pointer in seen or value.untyped_storage().nbytes() != value.nbytes else value
        seen.add(pointer)
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    # The library makes files that only their owner can read; weights are to be shared as any other file is.
    partial.touch()
    mode = partial.stat().st_mode
    safetensors.torch.save_file(plain, partial)
    partial.chmod(mode)
    partial.replace(file)


def save_checkpoint(folder: Path, objective: nn.Module, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder`, by renaming a complete new one over it."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, objective.state_dict(), state)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.replace(old)
    partial.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, whole: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    save_tensors({key: value for key, value in whole.items() if isinstance(value, Tensor)}, folder / TENSORS)
    extra = {key: value for key, value in whole.items() if not isinstance(value, Tensor)}
    torch.save({**state, "extra": extra}, folder / STATE)


def load_checkpoint(folder: Path, objective: nn.Module) -> dict[str, Any]:
    """Load the tensors of `folder` into the Objective and return the rest of the state."""
    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    objective.load_state_dict({**safetensors.torch.load_file(folder / TENSORS), **state.pop("extra")})
    return state
