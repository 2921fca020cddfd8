"""Construction of torch's own classes from a checked config, whatever torch is installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from kdcore.config.schemas import load_schema
from kdcore.config.training import Checked
from kdcore.errors import ConfigError, Place, Problem, WiringError


def checked(check: Callable[..., Checked], config: Any, place: Place) -> dict[str, Any]:
    """Return `config` as `check` completes it, a copy; raises ConfigError with everything it finds wrong."""
    node, problems = check(config)
    if problems:
        raise ConfigError(Problem(each.what, _inside(place, each.place.path), each.repair) for each in problems)
    return node


class TorchClass:
    """A class of the installed torch, chosen by name.

    Raises:
        WiringError: if this torch has no such class, does not know a param, or refuses a value.
    """

    def __init__(self, module: ModuleType, noun: str, name: str, place: Place) -> None:
        self.noun = noun
        self.name = name
        self.place = place
        if not hasattr(module, name):
            raise self._error(f"torch {torch.__version__} has no {noun} {name}", "update torch, or choose another")
        self.cls = getattr(module, name)

    def accepted(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return `params` without those that an older torch lacks and that stand at their defaults."""
        known = inspect.signature(self.cls).parameters
        missing = {key: value for key, value in params.items() if key not in known}
        defaults = load_schema(f"{self.noun}s")["$defs"][self.name]["properties"]
        for key, value in missing.items():
            if "default" not in defaults[key] or value != defaults[key]["default"]:
                what = f"{self.name} of torch {torch.__version__} has no param {key!r}"
                raise self._error(what, f"update torch, or remove {key}")
        return {key: value for key, value in params.items() if key in known}

    def __call__(self, *args: Any, **params: Any) -> Any:
        """Make an instance; what torch itself refuses is a WiringError in its own words."""
        try:
            return self.cls(*args, **params)
        except (ValueError, TypeError, RuntimeError) as error:
            raise self._error(f"{self.name} of torch refuses this: {error}", "change its params") from error
        except ArithmeticError as error:
            what = f"{self.name} of torch fails: {error}"
            raise self._error(what, "a part of its course has no length; change its params") from error

    def _error(self, what: str, repair: str) -> WiringError:
        return WiringError(what, place=self.place, repair=repair)


def _inside(place: Place, path: str) -> Place:
    # What is checked again here has lost its lines; the entry that it stands in still has one.
    return replace(place, path=".".join(part for part in (place.path, path) if part))
