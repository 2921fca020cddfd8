"""A compact model in a folder: weights, and what is different from the model of its type and params."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdcore import __version__
from kdcore.compaction.compact import CompactModel
from kdcore.compaction.resize import Resized, apply
from kdcore.component import Kind
from kdcore.config.config import WeightsConfig
from kdcore.config.create import checked_params
from kdcore.engine.checkpoint import save_tensors
from kdcore.engine.disk import disk_errors
from kdcore.errors import RunError, WeightsError
from kdcore.pipeline.weights import load_weights
from kdcore.plugins import Registry
from kdcore.plugins import registry as installed

WEIGHTS = "model.safetensors"
RECORD = "compact.json"
FORMAT = 1


def check_folder(folder: Path) -> None:
    """Raise RunError unless a folder can be written anew."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"{str(folder)!r} exists already and is not empty",
            repair="give another folder with -o, or remove that one; nothing is overwritten",
        )


def save(compact: CompactModel, folder: Path, type: str | None, params: Mapping[str, Any]) -> Path:
    """Write a compact model and its report; either all of it is there afterwards or nothing."""
    record = {
        "modules": {name: asdict(each) for name, each in compact.modules.items()},
        "report": asdict(compact.report),
    }
    return write(folder, compact.model, record, type, params)


def write(
    folder: Path, model: nn.Module, record: Mapping[str, Any], type: str | None, params: Mapping[str, Any]
) -> Path:
    """Write a model's weights and a record about it into a new folder."""
    check_folder(folder)
    whole = {"format": FORMAT, "kdcore": __version__, "model": {"type": type, "params": dict(params)}, **record}
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(folder):
        try:
            save_tensors(model.state_dict(), partial / WEIGHTS)
            (partial / RECORD).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            if folder.is_dir():
                folder.rmdir()
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder


def load_compact(
    folder: str | Path,
    model: nn.Module | None = None,
    *,
    semi_structured: bool = False,
    registry: Registry | None = None,
) -> nn.Module:
    """Build the model that `kd export` wrote, in eval mode, on the CPU; no code is read from the folder.

    The model of the recorded type and params is built from the installed plugins, its modules are resized as recorded,
    and the weights are loaded.

    Arguments:
        folder: with model.safetensors and compact.json.
        model: one of the original sizes, where the record names no type; it is changed in place.
        semi_structured: move the model to the GPU in half precision and turn its 2:4 layers into torch's
            semi-structured tensors, which needs a CUDA device of compute capability 8.0 or newer.
        registry: where the type is looked up; by default all installed plugins.

    Raises:
        WeightsError: a file is missing, damaged or of another format, or does not fit the model.
        RunError: `semi_structured`, and the device does not support it.
    """
    path = Path(folder)
    record = read_record(path)
    made = _built(record, path, registry) if model is None else model
    apply(made, {name: Resized(**each) for name, each in record["modules"].items()})
    load_weights(path.name, made, WeightsConfig(str(path / WEIGHTS)))
    made.eval()
    if not semi_structured:
        return made
    from kdcore.compaction.semi_structured import converted

    return converted(made, record.get("semi_structured") or [])


def read_record(folder: Path) -> dict[str, Any]:
    """Read and check compact.json."""
    file = folder / RECORD
    if not file.is_file():
        what = "there is no folder" if not folder.is_dir() else f"there is no {RECORD} in"
        raise WeightsError(f"{what} {str(folder)!r}", repair="give a folder that kd export wrote")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        modules = record["modules"]
        for name, each in modules.items():
            _check_entry(name, Resized(**each))
        if not isinstance(record["model"]["params"], dict):
            raise TypeError("model has no params")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise WeightsError(
            f"{str(file)!r} is damaged: {type(error).__name__}: {error}", repair="copy it again, or export again"
        ) from error
    if record.get("format") != FORMAT:
        raise WeightsError(
            f"{str(file)!r} has format {record.get('format')!r}, this version of kdcore reads {FORMAT}",
            repair=f"it was written by kdcore {record.get('kdcore')}",
        )
    return dict(record)


def _check_entry(name: str, each: Resized) -> None:
    for attribute, number in each.attributes.items():
        if type(number) is not int or number < 1 or attribute.startswith("_"):
            raise ValueError(f"{name!r} has {attribute} = {number!r}")
    for key, shape in each.shapes.items():
        if any(type(size) is not int or size < 1 for size in shape):
            raise ValueError(f"{name!r} has {key} of shape {shape!r}")


def _built(record: Mapping[str, Any], folder: Path, registry: Registry | None) -> nn.Module:
    type = record["model"]["type"]
    if type is None:
        raise WeightsError(
            f"{str(folder / RECORD)!r} names no type of model: it was saved from Python without one",
            repair="pass the original model: load_compact(folder, model)",
        )
    registered = (registry or installed()).find(Kind.MODEL, type)
    made: nn.Module = registered.factory()(**checked_params(registered, record["model"]["params"]))
    return made
