"""What a run's result depends on, and how that differs from what it was when the run began."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from kdcore import __version__
from kdcore.config.config import AdapterConfig, Config, ModelConfig, Part
from kdcore.engine.data import Datasets
from kdcore.engine.digest import digest_of, digest_of_file
from kdcore.engine.folder import write_atomically
from kdcore.errors import RunError
from kdcore.pipeline.randomness import derive_seed, kept_generators, seed_generators

FILE = "identity.json"

# What may change between two parts of a run, because nothing that is trained depends on it.
_FREE = (
    "output_dir",
    "description",
    "checkpoints.*",
    "data.*.num_workers",
    "data.*.pin_memory",
    "data.*.prefetch_factor",
    "data.*.persistent_workers",
)
_SAMPLES = 3
_SHORT = 16


def identify(config: Config, datasets: Datasets) -> dict[str, Any]:
    """Return what the result depends on: the config, versions, data and weights files.

    A data set is told by its length and labels and by a few samples: reading all could take longer than
    training.
    """
    names = sorted({name for stage in config.stages for name in stage.data.values()})
    return {
        "config": dict(config.resolved),
        "versions": {"kdcore": __version__, "torch": torch.__version__, **_versions(config)},
        "data": {name: _data(datasets.dataset(name), name) for name in names},
        "weights": {name: _file(Path(file)) for name, file in _weights_files(config)},
    }


def write_identity(identity: Mapping[str, Any], folder: Path) -> None:
    """Save what the run depends on."""
    write_atomically(folder / FILE, json.dumps(identity, indent=1) + "\n")


def read_identity(folder: Path) -> dict[str, Any] | None:
    """Return what was saved, or None if the run had not got that far."""
    try:
        saved: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{str(folder / FILE)!r} is damaged: {error}", repair="start the run anew") from error
    return saved


def check_identity(
    saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path, tell: Callable[[str], None], accept: bool
) -> None:
    """Raise RunError if something differs, or with `accept` only tell."""
    found = differences(saved, now)
    if not found:
        return
    if accept:
        tell("resumed although this is not what it was: " + "; ".join(found))
        return
    raise RunError(
        f"{str(folder)!r} cannot be resumed as it was: " + "; ".join(found),
        repair="bring back what it was, or add --accept-changes to go on all the same",
    )


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that differs, apart from what may."""
    # Through JSON, as what was saved: a tuple is a list there.
    old, new = dict(_leaves(saved)), dict(_leaves(json.loads(json.dumps(now))))
    lines = []
    for path in dict.fromkeys([*old, *new]):
        section, _, rest = path.partition(".")
        if section == "config" and any(fnmatch.fnmatchcase(rest, free) for free in _FREE):
            continue
        if old.get(path, _MISSING) != new.get(path, _MISSING):
            name = rest if section == "config" else path.replace(".", " ", 1)
            lines.append(f"{name}: was {_shown(old.get(path, _MISSING))}, is {_shown(new.get(path, _MISSING))}")
    return lines


class _Missing:
    def __repr__(self) -> str:
        return "not there"


_MISSING = _Missing()


def _shown(value: Any) -> str:
    return repr(value)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if entries is None or not node:
        yield path, node
        return
    for key, value in entries:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _versions(config: Config) -> dict[str, str]:
    found = {}
    for part in _parts(config):
        origin = part.registered.provenance
        file = Path(origin.distribution)
        # A plugin file has no version, but it has a content.
        found[origin.distribution] = origin.version or (_file(file) if file.is_file() else "")
    return dict(sorted(found.items()))


def _parts(config: Config) -> Iterator[Part]:
    for data in config.data.values():
        yield data.part
    for model in config.models.values():
        yield from (part for part in (model.part, model.output) if part is not None)
    for adapter in config.adapters.values():
        yield adapter.part
    for stage in config.stages:
        yield stage.balancer
        for term in stage.terms:
            yield from (term.loss, *term.wrappers)
        yield from (group.criterion for group in stage.pruning)


def _weights_files(config: Config) -> Iterator[tuple[str, str]]:
    parts: list[ModelConfig | AdapterConfig] = [*config.models.values(), *config.adapters.values()]
    for part in parts:
        if part.weights is not None and part.weights.file is not None:
            yield part.name, part.weights.file


def _file(path: Path) -> str:
    try:
        return digest_of_file(path.expanduser())[:_SHORT]
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _data(dataset: Any, name: str) -> dict[str, Any]:
    length = len(dataset)
    positions = sorted({0, length // 2, length - 1})[:_SAMPLES]
    with kept_generators():
        seed_generators(derive_seed(0, "identity", name))
        samples = {str(index): _sample(dataset, index) for index in positions}
    return {"samples": length, "labels": digest_of(getattr(dataset, "targets", None))[:_SHORT], "content": samples}


def _sample(dataset: Any, index: int) -> str:
    try:
        return digest_of(dataset[index])[:_SHORT]
    except Exception as error:  # a broken sample is reported where it is used, with all that is known there
        return f"unreadable ({type(error).__name__})"
