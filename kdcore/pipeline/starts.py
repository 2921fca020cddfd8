"""Which weights a model takes where a stage's `start:` gives it some."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kdcore.config.config import StartConfig
from kdcore.errors import Place, WiringError, suggestion

_SHOWN = 5


def tensors_to_take(name: str, start: StartConfig, own: nn.Module, other: nn.Module, place: Place) -> list[str]:
    """Return the names of the tensors that `own` takes from `other`: all, or those within what `start.only` matches.

    Raises WiringError where a pattern matches nothing, or where what is to be taken differs in names or shapes.
    """
    mine, theirs = (_shapes(each) for each in (own, other))
    taken = mine.keys() | theirs.keys()
    if start.only:
        _check_patterns(name, start, mine, place)
        taken = {key for key in taken if any(_within(key, pattern) for pattern in start.only)}
    differing = sorted(key for key in taken if mine.get(key) != theirs.get(key))
    if differing:
        raise WiringError(
            f"{name!r} cannot start from {start.model!r}: they differ in {', '.join(differing[:_SHOWN])}",
            place=place,
            repair="a model starts from one of the same type and params, or takes only: [patterns] of what both have",
        )
    return sorted(taken)


def take(module: nn.Module, weights: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Load the tensors so named into a module, whose others stay."""
    module.load_state_dict({**module.state_dict(), **{key: weights[key] for key in names}})


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def _check_patterns(name: str, start: StartConfig, own: Mapping[str, object], place: Place) -> None:
    for pattern in start.only:
        if not any(_within(key, pattern) for key in own):
            modules = {".".join(parts[:depth]) for parts in (key.split(".") for key in own) for depth in range(1, 9)}
            raise WiringError(
                f"start: only: {pattern!r} matches nothing in {name!r}",
                place=place,
                repair=suggestion(pattern, sorted(modules), noun="parts"),
            )


def _within(key: str, pattern: str) -> bool:
    """Whether a pattern matches a tensor's name, or that of a module around it."""
    parts = key.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1))
