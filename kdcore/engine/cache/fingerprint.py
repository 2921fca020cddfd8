"""What makes two caches the same: the parts that decide on every stored value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.config.config import Config, Part

_SHORT = 12


class Fingerprint:
    """Digests and settings by name, such as `weights`, `data` or `dtype`."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self.parts = dict(parts)

    @property
    def short(self) -> str:
        """A few characters that stand for all parts, for the name of a folder."""
        return digest(self.parts)[:_SHORT]

    def differing(self, other: Mapping[str, Any]) -> list[str]:
        """Return the names of the parts in which `other` is not the same."""
        return [name for name in self.parts if self.parts[name] != other.get(name)]


def digest(data: Any) -> str:
    """Return the digest of JSON data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """Return the digest of names, dtypes, shapes and bytes of a model's state."""
    sha = hashlib.sha256()
    for name, value in module.state_dict().items():
        sha.update(name.encode())
        update(sha, value)
    return sha.hexdigest()


def model_parts(config: Config, name: str) -> dict[str, str]:
    """Return what a model is made of, how it is called and how its output is read."""
    model, resolved = config.models[name], config.resolved["models"][name]
    keys = ("type", "params", "inputs", "output")
    makers = [_maker(part) for part in (model.part, model.output) if part is not None]
    return {"model": digest([{key: resolved.get(key) for key in keys}, makers])}


def data_parts(config: Config, name: str, samples: int, rows_per_sample: int, entries: Iterable[Any]) -> dict[str, str]:
    """Return what a data set is made of; `entries` are what the model would be fed of a few samples."""
    resolved = config.resolved["data"][name]
    described = [{key: resolved.get(key) for key in ("type", "params")}, _maker(config.data[name].part)]
    sha = hashlib.sha256(digest([described, samples, rows_per_sample]).encode())
    for entry in entries:
        update(sha, entry)
    return {"data": sha.hexdigest()}


def update(sha: Any, value: Any) -> None:
    """Add a value to a digest: tensors, and what holds them, by their content."""
    if isinstance(value, Tensor):
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            sha.update(str(key).encode())
            update(sha, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            update(sha, item)
    else:
        # The text of an object may hold its place in memory; its type is what is left to say.
        plain = isinstance(value, (str, bytes, int, float, type(None)))
        sha.update((repr(value) if plain else type(value).__name__).encode())


def _maker(part: Part) -> list[str]:
    """Return who offers a component: a distribution and its version, or a plugin file and its content."""
    provenance = part.registered.provenance
    file = Path(provenance.distribution)
    content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return [file.name if content else provenance.distribution, provenance.version, content]
