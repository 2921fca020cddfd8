"""What a checkpoint can give back: tensors and plain data, for reading one never runs code."""

from __future__ import annotations

import collections
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.config.config import Config, StageConfig
from kdcore.errors import Place, WiringError
from kdcore.pipeline.objective import Objective
from kdcore.pipeline.term import Term

ALLOWED = "tensors, numbers, strings, None, and lists, tuples, sets and dicts of them"
MEND = (
    "let get_extra_state() or state_dict() return such values, for example float(x) for a number of NumPy and "
    "torch.from_numpy(x) for an array, and set_extra_state() or load_state_dict() turn them back"
)

# What torch.load takes with weights_only, whatever its version and whoever allowed more; others are tried.
_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)
_SEQUENCES = (list, tuple, set, torch.Size)
_PLAIN = {
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(Tensor, nn.Parameter, torch.dtype, torch.device),
}


def unreadable(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield what torch could write of a tree and not read again: where it is, such as `name['key'][0]`, and its type.

    It reads no tensor, so a state of any size takes no longer than one of small tensors.
    """
    yield from _unreadable(value, name, set())


def check_readable(objective: Objective, config: Config, stage: StageConfig) -> None:
    """Raise WiringError if a part of an Objective keeps what no checkpoint, or no weights file, could give back.

    Arguments:
        objective: as it is now; the type of what its modules keep may change later.
        config: of the run.
        stage: that the Objective is of.
    """
    for key, value in plain_state(objective).items():
        whose, place, whole = _owner(objective, key, config, stage)
        for where, found in unreadable(value, key):
            raise not_readable(whose, where, found, place)
        if whole:
            raise WiringError(
                f"{whose} keeps what its weights file could not hold: {key} is of type {type(value).__name__}, and "
                "a safetensors file holds tensors only",
                place=place,
                repair="keep it in buffers, or let get_extra_state() return a tensor",
            )


def not_readable(whose: str, where: str, found: str, place: Place = Place()) -> WiringError:
    """Return the error for a part that keeps what no checkpoint could give back."""
    return WiringError(
        f"{whose} keeps what no checkpoint could give back: {where} is of type {found}, and {ALLOWED} are allowed",
        place=place,
        repair=MEND,
    )


def plain_state(objective: Objective) -> dict[str, Any]:
    """Return what an Objective's state holds beside tensors: what get_extra_state() of its modules returns."""
    return {key: value for key, value in objective.state_dict().items() if not isinstance(value, Tensor)}


def term_of(objective: Objective, key: str) -> Term | None:
    """Return the term whose state has a key of an Objective's, None if it is no term's."""
    return next((each for each in objective.terms if key.startswith(f"losses.{each.name}.")), None)


def _unreadable(value: Any, name: str, within: set[int]) -> Iterator[tuple[str, str]]:
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind in _MAPPINGS or kind in _SEQUENCES:
        if id(value) in within:  # it holds itself, which torch can read
            return
        within = {*within, id(value)}
        if kind in _MAPPINGS:
            for key, item in value.items():
                yield from _unreadable(key, f"the key {_short(key)} of {name}", within)
                yield from _unreadable(item, f"{name}[{_short(key)}]", within)
        else:
            for number, item in enumerate(value):
                yield from _unreadable(item, f"{name}[{number}]" if kind is not set else f"an item of {name}", within)
    elif not _comes_back(value):
        yield name, f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _comes_back(value: Any) -> bool:
    """Whether torch reads what it has written of a value; somebody may have allowed its type to torch."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # pickling may fail in any way, and what fails once would fail in a checkpoint
        return False
    return True


def _owner(objective: Objective, key: str, config: Config, stage: StageConfig) -> tuple[str, Place, bool]:
    """Return the part whose state has a key, in words, where it stands, and whether it has a weights file."""
    kind, _, rest = key.partition(".")
    term = term_of(objective, key)
    if term is not None:
        return term.title, term.config.place, False
    if kind == "balancer":
        return str(stage.balancer.registered), stage.balancer.place, False
    name = rest.partition(".")[0]
    made = config.models[name] if kind == "models" else config.adapters[name]
    by = f" ({made.part.registered})" if made.part is not None else ""
    return f"{'model' if kind == 'models' else 'adapter'} {name!r}{by}", made.place, True


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 80 else f"{text[:77]}..."
