"""Reading weights from files, and saying exactly what fitted."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kdcore.config.config import WeightsConfig
from kdcore.errors import Place, WeightsError, suggestion
from kdcore.pipeline.diagnosis import describe

AS_BUILT = "as_built"

_SHOWN = 5
_SUFFIXES = (".safetensors", ".pt", ".pth")


def load_weights(name: str, module: nn.Module, config: WeightsConfig) -> str:
    """Load `config.file` into `module` and return one line on what was loaded.

    Raises:
        WeightsError: the file is missing, unreadable or not a state dict; or names or shapes do not
            fit (with `strict: false`, only shapes must).
    """
    assert config.file is not None
    file = Path(config.file).expanduser()
    state = _named_tensors(read_tensors(file, config.place), config)
    own = module.state_dict()
    state = _with_tied(state, own)
    shapes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(own[key].shape)} in the model"
        for key in own.keys() & state.keys()
        if isinstance(own[key], Tensor) and state[key].shape != own[key].shape
    ]
    # Packed weights (int8, complex) would be cast without a word, and mean something else.
    kinds = [
        f"{key} is {describe(state[key])} in the file and {describe(own[key])} in the model"
        for key in sorted(own.keys() & state.keys())
        if isinstance(own[key], Tensor) and _sort(state[key]) != _sort(own[key])
    ]
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misfits = [*sorted(shapes), *kinds]
    if config.strict or len(missing) == len(own):
        misfits += [f"missing in the file: {_listed(missing)}"] if missing else []
        misfits += [f"unknown to the model: {_listed(unexpected)}"] if unexpected else []
    if misfits:
        raise WeightsError(
            f"the weights in {str(file)!r} do not fit {name!r} ({type(module).__name__}): "
            + "; ".join(misfits[:_SHOWN]),
            place=config.place,
            repair=_remedy(missing, unexpected, shapes, kinds),
        )
    module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
    text = f"{name}: loaded {len(own) - len(missing)} of {len(own)} tensors from {file}"
    text += f"; kept as built: {_listed(missing)}" if missing else ""
    return text + (f"; ignored: {_listed(unexpected)}" if unexpected else "")


def _with_tied(state: dict[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """Add the names that a file leaves out because the model ties them to others."""
    owners = {value.data_ptr(): key for key, value in own.items() if isinstance(value, Tensor) and key in state}
    missing = {key: value for key, value in own.items() if isinstance(value, Tensor) and key not in state}
    tied = {key: state[owners[value.data_ptr()]] for key, value in missing.items() if value.data_ptr() in owners}
    return {**state, **{key: value for key, value in tied.items() if value.shape == own[key].shape}}


def load_state(module: nn.Module, file: Path, place: Place = Place()) -> None:
    """Load weights that this run saved itself."""
    module.load_state_dict(read_tensors(file, place))


def read_tensors(file: Path, place: Place) -> dict[str, Any]:
    """Read a .safetensors file, or any other with torch's weights_only reader."""
    if not file.is_file():
        folder = file if file.is_dir() else file.parent if file.parent.is_dir() else Path()
        there = [each.name for each in folder.iterdir() if each.suffix in _SUFFIXES and each.is_file()]
        what = f"{str(file)!r} is a folder" if file.is_dir() else f"there is no weights file {str(file)!r}"
        raise WeightsError(
            f"{what} (looked for {str(file.absolute())!r})",
            place=place,
            repair=suggestion(file.name, there if file.is_dir() else [*there, AS_BUILT], noun=f"weights in {folder}"),
        )
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{str(file)!r} holds more than tensors, or is no weights file at all; loading it could run code",
            place=place,
            repair="save the model's state_dict() alone, best as .safetensors",
        ) from error
    except Exception as error:  # bytes that are no weights make the readers fail in any way
        reason = str(error).split("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{str(file)!r} cannot be read as weights: {reason}",
            place=place,
            repair="the file may be truncated: copy it again",
        ) from error
    if not isinstance(loaded, Mapping):
        raise WeightsError(
            f"{str(file)!r} holds a {type(loaded).__name__}, not a state dict",
            place=place,
            repair="save the model's state_dict()",
        )
    return dict(loaded)


def _named_tensors(loaded: dict[str, Any], config: WeightsConfig) -> dict[str, Tensor]:
    state: Any = loaded
    for key in (config.key or "").split(".") if config.key else ():
        if not isinstance(state, Mapping) or key not in state or not isinstance(state[key], Mapping):
            known = [each for each, item in state.items() if isinstance(item, Mapping)]
            raise WeightsError(
                f"{config.file!r} has no entry {config.key!r} that holds named tensors",
                place=config.place,
                repair=suggestion(key, map(str, known), noun="entries"),
            )
        state = state[key]
    prefix = config.strip_prefix or ""
    named = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    tensors = {key.removeprefix(prefix): value for key, value in named.items()}
    if not tensors:
        nested = [key for key, value in state.items() if isinstance(value, Mapping)]
        raise WeightsError(
            f"{config.file!r} holds no named tensors" + (f" under {config.key!r}" if config.key else ""),
            place=config.place,
            repair=f"name the entry that holds them: weights: {{file: ..., key: {nested[0]}}}" if nested else "",
        )
    return tensors


def _sort(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def _remedy(missing: list[str], unexpected: list[str], shapes: list[str], kinds: list[str]) -> str:
    for prefix in {key.split(".")[0] + "." for key in unexpected}:
        if {key.removeprefix(prefix) for key in unexpected} & set(missing):
            return f"the names in the file start with {prefix!r}: write strip_prefix: {prefix}"
    if kinds:
        return "the file seems to hold packed weights: save them as the model has them"
    if shapes:
        return "the model's params must be those the weights were trained with (width, classes, vocabulary)"
    return "check the model's type and params, or write strict: false to accept the difference"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
