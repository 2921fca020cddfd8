"""What the accuracies of an example depend on: its config, the code of the packages it uses, and versions.

The core is there with its version alone: it changes with every commit, but seldom what a run comes to. After a change
of the core that moves the numbers, the table is measured with --again.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kdcore import __version__, load_config
from kdcore.plugins import Registered

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "plugins"

# Its scans and networks are in every example, also where they stand in the params of another data set.
ALWAYS = "kd-plugin-digits"
# What only the conformance checks call.
UNUSED = "examples.py"

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def fingerprint(file: Path, packages: Path = PLUGINS) -> dict[str, Any]:
    """Return what the accuracies of an example depend on, as far as it is written down."""
    import torch

    origins = {each.provenance for each in components_in(load_config(file))}
    plugins = dict(sorted((each.distribution, each.version) for each in origins))
    versions = {"kdcore": __version__, "torch": torch.__version__.partition("+")[0], **plugins}
    folders = {name: packages / name / "src" for name in sorted({ALWAYS, *plugins})}
    sources = {name: digest_of_package(folder) for name, folder in folders.items() if folder.is_dir()}
    return {"example": file.name, "digest": digest_of(file), "versions": versions, "sources": sources}


def components_in(value: Any) -> Iterator[Registered]:
    """Yield every component that a checked config chose, wherever it stands."""
    if isinstance(value, Registered):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from components_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from components_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from components_in(each)


def digest_of(file: Path) -> str:
    """Return a digest of what an example says, comments and description left out."""
    return _digest({**yaml.safe_load(file.read_text(encoding="utf-8")), "description": None})


def digest_of_package(folder: Path) -> str:
    """Return a digest of a package's code and schemas, comments and descriptions left out."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".py" and file.name != UNUSED:
            found[file.relative_to(folder).as_posix()] = ast.dump(_without_docstrings(file))
        elif file.suffix == ".json":
            said = json.loads(file.read_text(encoding="utf-8"))
            found[file.relative_to(folder).as_posix()] = _without_descriptions(said)
    return _digest(found)


def _without_docstrings(file: Path) -> ast.Module:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def _without_descriptions(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_descriptions(each) for each in value]
    if not isinstance(value, dict):
        return value
    # A param may be called so; only the text is a description.
    said = {key: each for key, each in value.items() if not (key == "description" and isinstance(each, str))}
    return {key: _without_descriptions(each) for key, each in said.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
