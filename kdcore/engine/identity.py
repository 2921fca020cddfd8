"""What a run's result depends on, and how that differs from what it was when the run began."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from kdcore import __version__
from kdcore.advice import Advice
from kdcore.config.config import AdapterConfig, Config, ModelConfig
from kdcore.digest import digest_of, digest_of_file
from kdcore.discovery import Provenance
from kdcore.engine.data import Datasets
from kdcore.engine.folder import write_atomically
from kdcore.engine.plugin_files import IDENTITY, changed_files, describe_plugin_files
from kdcore.errors import RunError
from kdcore.pipeline.randomness import derive_seed, kept_generators, seed_generators

# What may change between two parts of a run, because nothing that is trained depends on it.
_FREE = (
    "output_dir",
    "description",
    "checkpoints.*",
    "stages.*.on_nonfinite",
    "stages.*.on_nonfinite.*",
    "data.*.num_workers",
    "data.*.pin_memory",
    "data.*.prefetch_factor",
    "data.*.persistent_workers",
)
_SAMPLES = 3
_SHORT = 16


def identify(config: Config, datasets: Datasets, processes: int = 1) -> dict[str, Any]:
    """Return what the result depends on: the config, versions, plugin files, processes, data and weights files.

    A data set is told by its length and labels and by a few samples: reading all could take longer than
    training.
    """
    names = sorted({name for stage in config.stages for name in stage.data.values()})
    return {
        "config": dict(config.resolved),
        "versions": {"kdcore": __version__, "torch": torch.__version__, **_versions(config)},
        "plugins": describe_plugin_files(_plugin_files(config)),
        "processes": processes,
        "data": {name: _data(datasets.dataset(name), name) for name in names},
        "weights": {name: _file(Path(file)) for name, file in _weights_files(config)},
    }


def write_identity(identity: Mapping[str, Any], folder: Path) -> None:
    """Save what the run depends on."""
    write_atomically(folder / IDENTITY, json.dumps(identity, indent=1) + "\n")


def check_identity(
    folder: Path, now: Mapping[str, Any], tell: Callable[[str], None], accept: bool, advice: Advice
) -> None:
    """Compare what a run depended on with what it depends on now.

    Raises:
        RunError: something differs, or nothing says what it was; with `accept` that is only told.
    """
    try:
        saved = _read(folder)
    except RunError as error:
        if not accept:
            raise RunError(
                f"{str(folder)!r} cannot be resumed as it was, for it cannot be told whether anything has changed: "
                f"{error.problem.what}",
                repair=f"{advice.accept} to go on with what there is now; {IDENTITY} is then written anew",
            ) from error
        tell(f"resumed although it cannot be told whether anything has changed: {error.problem.what}")
        return
    if saved is None or not (found := differences(saved, now)):
        return
    if accept:
        tell("resumed although this is not what it was: " + "; ".join(found))
        return
    count = saved.get("processes")
    several = f" ({advice.resume(folder, count)})" if isinstance(count, int) and count != now["processes"] else ""
    raise RunError(
        f"{str(folder)!r} cannot be resumed as it was: " + "; ".join(found),
        repair=f"bring back what it was{several}, or {advice.accept} to go on all the same",
    )


def _read(folder: Path) -> dict[str, Any] | None:
    """Return what was saved, or None if the run had not got that far; raises RunError where it is lost."""
    file = folder / IDENTITY
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # A run writes it before its config, and that before anything it trains.
        if not (folder / "config.yaml").exists() and not any(folder.glob("checkpoints/*/*epoch-*")):
            return None
        raise RunError(f"there is no {str(file)!r}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{str(file)!r} is damaged: {error}") from error
    if not isinstance(saved, dict):
        raise RunError(f"{str(file)!r} is damaged: it holds no object")
    return saved


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that differs, apart from what may."""
    # Through JSON, as what was saved: a tuple is a list there.
    now = json.loads(json.dumps(now))
    lines = changed_files(saved.get("plugins", {}), now.get("plugins", {}))
    old, new = (dict(_leaves({key: side[key] for key in side if key != "plugins"})) for side in (saved, now))
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
    origins = (part.registered.provenance for part in config.parts())
    return dict(sorted({each.distribution: each.version for each in origins if not _is_file(each)}.items()))


def _plugin_files(config: Config) -> list[Path]:
    origins = (part.registered.provenance for part in config.parts())
    return [Path(each.distribution) for each in origins if _is_file(each)]


def _is_file(origin: Provenance) -> bool:
    """Whether a component comes from a plugin file, which has no version but a content."""
    return not origin.version and Path(origin.distribution).is_file()


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
