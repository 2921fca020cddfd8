"""Digests of data: tensors, arrays, what holds them, and files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def digest_of(*values: Any) -> str:
    """Return the digest of some values, the same for equal content of the same types and shapes."""
    sha = hashlib.sha256()
    for value in values:
        for text, content in _contents(value):
            sha.update(text.encode())
            sha.update(content)
    return sha.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's bytes; raises OSError where it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _contents(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a description and the bytes of everything in `value` that has bytes."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}:", b""
            yield from _contents(value[key])
    elif isinstance(value, (Tensor, np.ndarray)):
        array = value.detach().cpu().contiguous() if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        yield f"{array.dtype}{tuple(array.shape)}", array.reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, (list, tuple)):
        yield f"{len(value)}[", b""
        for item in value:
            yield from _contents(item)
    else:
        # Anything else by what it shows, unless that shows where it lies in memory.
        shown = repr(value)
        yield (type(value).__name__ if " at 0x" in shown else shown), b""
