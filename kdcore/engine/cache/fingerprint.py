"""What makes two caches the same: the parts that decide on every stored value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdcore.config.config import Config, Part
from kdcore.digest import digest_of, digest_of_file

_SHORT = 12


class Fingerprint:
    """Digests and settings by name, such as `weights`, `data` or `dtype`."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self.parts = dict(parts)

    @property
    def short(self) -> str:
        """A few characters that stand for all parts, for the name of a folder."""
        return digest_of(self.parts)[:_SHORT]

    def differing(self, other: Mapping[str, Any]) -> list[str]:
        """Return the names of the parts in which `other` is not the same."""
        return [name for name in self.parts if self.parts[name] != other.get(name)]


def weights_digest(module: nn.Module) -> str:
    """Return the digest of names, dtypes, shapes and bytes of a model's state."""
    return digest_of(module.state_dict())


def model_parts(config: Config, name: str) -> dict[str, str]:
    """Return what a model is made of, how it is called and how its output is read."""
    model, resolved = config.models[name], config.resolved["models"][name]
    keys = ("type", "params", "inputs", "output")
    makers = [_maker(part) for part in (model.part, model.output) if part is not None]
    return {"model": digest_of({key: resolved.get(key) for key in keys}, makers)}


def data_parts(config: Config, name: str, samples: int, rows_per_sample: int, entries: Iterable[Any]) -> dict[str, str]:
    """Return what a data set is made of; `entries` are what the model would be fed of a few samples."""
    resolved = config.resolved["data"][name]
    described = [{key: resolved.get(key) for key in ("type", "params")}, _maker(config.data[name].part)]
    return {"data": digest_of(described, samples, rows_per_sample, *entries)}


def _maker(part: Part) -> list[str]:
    """Return who offers a component: a distribution and its version, or a plugin file and its content."""
    provenance = part.registered.provenance
    file = Path(provenance.distribution)
    content = digest_of_file(file) if file.is_file() else ""
    return [file.name if content else provenance.distribution, provenance.version, content]
