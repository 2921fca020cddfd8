"""The core's JSON Schemas, beside the package in a checkout and inside it once installed."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from kdcore.errors import KdcoreError, suggestion

_PACKAGE = Path(__file__).resolve().parents[1]


def schema_folder(package: Path = _PACKAGE) -> Path:
    """Return the folder that holds the core's schemas; raises KdcoreError where there is none.

    Arguments:
        package: the folder of the package `kdcore`.
    """
    inside, beside = package / "schemas", package.parent / "schemas"
    if inside.is_dir():
        return inside
    # In site-packages a neighbour called schemas would be somebody else's.
    if beside.is_dir() and (package.parent / "pyproject.toml").is_file():
        return beside
    raise KdcoreError(
        f"kdcore's schemas are missing: neither {str(inside)!r} nor {str(beside)!r} holds them",
        repair="the installation is incomplete: install kdcore again (pip install --force-reinstall kdcore)",
    )


@functools.cache
def load_schema(name: str) -> dict[str, Any]:
    """Return one of the core's schemas, such as `config`; callers share it and must not change it."""
    folder = schema_folder()
    try:
        schema = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [file.stem for file in folder.glob("*.json")]
        raise KdcoreError(f"there is no schema {name!r}", repair=suggestion(name, known, noun="schemas")) from None
    if not isinstance(schema, dict):
        raise KdcoreError(f"the schema {name!r} is not a JSON object", repair="install kdcore again")
    return schema
