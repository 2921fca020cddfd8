"""Digests of data: tensors, arrays, what holds them, and files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}


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
    elif isinstance(value, Tensor) and (parts := _parts(value)):
        yield f"{value.layout}{value.dtype}{tuple(value.shape)}", b""
        yield from _contents(parts)
    elif isinstance(value, (Tensor, np.ndarray)):
        array = _plain(value) if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        yield f"{array.dtype}{tuple(array.shape)}", array.reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, (list, tuple)):
        yield f"{len(value)}[", b""
        for item in value:
            yield from _contents(item)
    else:
        # Anything else by what it shows, unless that shows where it lies in memory.
        shown = repr(value)
        yield (type(value).__name__ if " at 0x" in shown else shown), b""


def _parts(tensor: Tensor) -> dict[str, Tensor]:
    """Return the tensors that one is made of which does not lie in memory as it shows: sparse, or packed."""
    if hasattr(tensor, "__tensor_flatten__"):
        return {name: getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]}
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.detach().coalesce()
        return {"indices": tensor.indices(), "values": tensor.values()}
    if tensor.layout in _COMPRESSED:
        return {name: getattr(tensor, name)() for name in (*_COMPRESSED[tensor.layout], "values")}
    return {}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
