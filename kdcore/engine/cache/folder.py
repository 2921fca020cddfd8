"""The folder of one cache: its name, its manifest, and the older ones beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdcore.config.config import CacheConfig
from kdcore.engine.cache.fingerprint import Fingerprint
from kdcore.engine.folder import write_atomically
from kdcore.engine.measure import show_bytes
from kdcore.errors import RunError

MANIFEST = "manifest.json"


def open_folder(
    parent: Path, model: str, data: str, fingerprint: Fingerprint, config: CacheConfig, tell: Callable[[str], None]
) -> Path:
    """Return the folder of a cache, made if it is not there; says what differs from the nearest older one."""
    folder = parent / f"{model}-{data}-{fingerprint.short}"
    try:
        if not (folder / MANIFEST).is_file():
            _make(folder, model, data, fingerprint, tell)
    except (OSError, RunError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error.problem.what
        raise RunError(
            f"the cache folder {str(folder)!r} cannot be made or read: {why}",
            place=config.place,
            repair="choose another folder, or let this user read it, and write to it until it is complete",
        ) from error
    return folder


def _make(folder: Path, model: str, data: str, fingerprint: Fingerprint, tell: Callable[[str], None]) -> None:
    older = _nearest(folder.parent, model, data, fingerprint)
    if older is not None:
        path, differing = older
        tell(
            f"the cache of {model} on {data} is made again: its {' and '.join(differing)} changed; "
            f"the old one stays in {path} ({show_bytes(_size(path))})"
        )
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"model": model, "data": data, "parts": fingerprint.parts}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def _nearest(parent: Path, model: str, data: str, fingerprint: Fingerprint) -> tuple[Path, list[str]] | None:
    """Return the cache of the same model and data that differs in the fewest parts, the newest of these."""
    found = [
        (path, fingerprint.differing(manifest["parts"]))
        for path, manifest in _manifests(parent)
        if (manifest.get("model"), manifest.get("data")) == (model, data)
    ]
    found.sort(key=lambda each: (len(each[1]), -each[0].stat().st_mtime))
    return found[0] if found and found[0][1] else None


def _manifests(parent: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for file in parent.glob(f"*/{MANIFEST}"):
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it only serves a message
        if isinstance(manifest, dict) and isinstance(manifest.get("parts"), dict):
            yield file.parent, manifest


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
