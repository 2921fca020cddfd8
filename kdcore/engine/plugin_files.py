"""The plugin files of a run or search: told by their content, and remembered for whoever resumes it without them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcore.errors import ConfigError
from kdcore.plugins import FILE_MODULE, registry

# Reading what a run depends on, to help with a mistake, is no reason to import torch.
IDENTITY = "identity.json"

_UNKNOWN = re.compile(r"unknown .+ '.+'")
_SHORT = 16


def describe_plugin_files(files: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Return each file's path and content by its name, by its whole path where two are called alike."""
    found = {file.absolute() for file in files}
    names = [file.name for file in found]
    return {
        file.name if names.count(file.name) == 1 else str(file): {"path": str(file), "content": _content(file)}
        for file in sorted(found)
    }


def recorded_plugin_files(run: Path) -> list[Path]:
    """Return the plugin files that a run had, as far as it can say."""
    try:
        entries: dict[str, Any] = json.loads((run / IDENTITY).read_text(encoding="utf-8"))["plugins"]
        return [Path(entry["path"]) for entry in entries.values()]
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return []


class LoadedPluginFiles:
    """The plugin files that this process has loaded; unpickled in another one, it loads them there.

    Whatever is pickled after it may be of their classes. A process that is forked has them anyway.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        modules = [module for name, module in sys.modules.items() if name.startswith(FILE_MODULE)]
        return _loaded, ([str(module.__file__) for module in modules],)


def _loaded(files: Iterable[str]) -> LoadedPluginFiles:
    for file in files:
        if FILE_MODULE + Path(file).stem not in sys.modules:
            registry().load_file(file)
    return LoadedPluginFiles()


@contextlib.contextmanager
def naming_plugin_files(folder: str | Path | None, given: Iterable[str], noun: str) -> Iterator[None]:
    """Let an error of the config name the plugin files that the run or search in `folder` had, and that are missing."""
    try:
        yield
    except ConfigError as error:
        names = {Path(file).name for file in given}
        had = [] if folder is None else recorded_plugin_files(Path(folder))
        missing = [file for file in had if file.name not in names]
        if not missing:
            raise
        hint = _hint(missing, noun)
        raise ConfigError(
            replace(problem, repair=hint) if _UNKNOWN.fullmatch(problem.what) else problem for problem in error.problems
        ) from error


def changed_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a line for each plugin file that is not what it was."""
    lines = []
    for name in dict.fromkeys([*old, *new]):
        was, now = (side.get(name, {}) for side in (old, new))
        if was.get("content") == now.get("content"):
            continue
        path = now.get("path") or was.get("path")
        if not was or not now:
            lines.append(f"plugin file {path}: {'is new' if now else 'was there, and its components are not used now'}")
        else:
            lines.append(f"plugin file {path}: its content was {was['content']!r}, is {now['content']!r}")
    return lines


def _hint(missing: list[Path], noun: str) -> str:
    hint = f"the {noun} had {' '.join(f'--plugin {_reachable(file)}' for file in missing)}: add it again"
    gone = [str(file) for file in missing if not file.is_file()]
    return f"the {noun} had a plugin file that is gone, {', '.join(gone)}: bring it back, and {hint}" if gone else hint


def _reachable(file: Path) -> str:
    return os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)


def _content(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:_SHORT]
    except OSError as error:
        return f"unreadable ({error.strerror})"
