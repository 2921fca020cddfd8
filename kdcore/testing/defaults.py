"""What a process has one of, and everything in it goes by: torch's defaults, numpy's, Python's."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Default:
    """One such thing: how it is read, how it is set, and what it is before anybody sets it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    usual: Any


def _attribute(owner: Any, name: str, shown: str, usual: Any) -> Default:
    return Default(shown, functools.partial(getattr, owner, name), functools.partial(setattr, owner, name), usual)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


def _set_device(value: torch.device) -> None:
    # Named, the CPU too costs every call a look.
    torch.set_default_device(None if value.type == "cpu" else value)


DEFAULTS = (
    Default("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    Default("torch's default device", torch.get_default_device, _set_device, torch.device("cpu")),
    Default("whether gradients are recorded", torch.is_grad_enabled, torch.set_grad_enabled, True),
    Default("torch's use of deterministic algorithms", _deterministic, _set_deterministic, (False, False)),
    Default("torch's number of threads", torch.get_num_threads, torch.set_num_threads, None),
    Default(
        "torch's precision of matrix products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "highest",
    ),
    Default("torch's detection of anomalies", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
    Default(
        "whether autocast is on",
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
        False,
    ),
    *(
        _attribute(torch.backends.cudnn, name, f"torch.backends.cudnn.{name}", usual)
        for name, usual in (("benchmark", False), ("deterministic", False), ("enabled", True))
    ),
    Default("numpy's treatment of errors", np.geterr, lambda value: np.seterr(**value), _ERRORS),
    Default("numpy's way of printing", np.get_printoptions, lambda value: np.set_printoptions(**value), None),
)
# Functions that everybody calls; one that another takes the place of changes everybody's results.
_SHARED = (torch, torch.Tensor, nn.Module, nn.functional, torch.linalg, torch.optim.Optimizer, np, random, warnings)


@contextlib.contextmanager
def kept_defaults() -> Iterator[None]:
    """Put back afterwards what was set within, so that one component's mistake is not another's."""
    before = [(each, each.read()) for each in DEFAULTS]
    environment, place, path = dict(os.environ), os.getcwd(), list(sys.path)
    try:
        yield
    finally:
        for each, value in before:
            if each.read() != value:
                each.write(value)
        sys.path[:] = path
        if os.getcwd() != place:
            os.chdir(place)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Set every default to what it is before anybody sets it, and put all back afterwards, changed functions too.

    What the first import of a package set already would otherwise hide that a use of it sets it again.
    """
    functions = shared_functions()
    with kept_defaults(), warnings.catch_warnings():
        warnings.resetwarnings()
        # Nothing is to be printed, by a filter that nobody else writes.
        warnings.filterwarnings("ignore", message=".*")
        for each in DEFAULTS:
            if each.usual is not None and each.read() != each.usual:
                each.write(each.usual)
        try:
            yield
        finally:
            for owner, name in replaced(functions):
                setattr(owner, name, functions[owner][name])


def defaults() -> dict[str, Any]:
    """Return everything that a process goes by, under the name that a message uses."""
    return {
        **{each.name: each.read() for each in DEFAULTS},
        "whether small numbers count as 0": bool(torch.tensor(1e-310, dtype=torch.float64, device="cpu") * 1 == 0),
        "torch's way of printing": dict(vars(torch._tensor_str.PRINT_OPTS)),
        "hooks on all modules": {name: list(each) for name, each in _global_hooks().items()},
        "the filters of warnings": list(warnings.filters),
        "the level of Python's root logger": logging.root.level,
        "the handlers of Python's root logger": list(logging.root.handlers),
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        "sys.path": list(sys.path),
        "sys.excepthook": sys.excepthook,
        "the limit of recursion": sys.getrecursionlimit(),
        "what SIGINT and SIGTERM do": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
    }


def shared_functions() -> dict[Any, dict[str, Any]]:
    """Return what stands in torch, numpy and others, from which components call."""
    return {owner: dict(vars(owner)) for owner in _SHARED}


def replaced(before: Mapping[Any, Mapping[str, Any]]) -> list[tuple[Any, str]]:
    """Return in place of which functions something else stands now, with what holds them."""
    found = []
    for owner, names in before.items():
        now = vars(owner)
        found += [(owner, name) for name, each in names.items() if now.get(name) is not each and callable(each)]
    return found


def _global_hooks() -> Mapping[str, Any]:
    return {name: each for name, each in vars(nn.modules.module).items() if name.startswith("_global_") and each}
