"""One loss per key of a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_plugin_wrappers.checks import weights_problem
from kd_plugin_wrappers.parts import PartsWrapper
from kdcore.contracts import LossFactory
from kdcore.errors import suggestion


class DictWrapper(PartsWrapper):
    r"""Apply one loss instance to each listed key of inputs that are dicts.

    `sum_k w_k loss_k(input[k], target)`; an input that is no dict is given to every key.

    Arguments:
        make_loss: makes the loss of each key, which may be a wrapper itself.
        weights: a finite number for each key to use.

    Raises:
        ValueError: a key is missing, no input is a dict, or a loss that returns (sum, count) is
            given different labels or masks per key.
    """

    def __init__(self, make_loss: LossFactory, weights: Mapping[str, float]) -> None:
        super().__init__(make_loss)
        problem = weights_problem(weights)
        if problem is not None:
            raise ValueError(problem)
        self.keys = list(weights)
        self.weights = list(weights.values())
        # A list, not a ModuleDict: a key may hold dots, which module names may not.
        self.losses.extend(make_loss() for _ in self.keys)

    def pick(self, inputs: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Return the inputs of one key."""
        key = self.keys[index]
        part = {}
        for name, value in inputs.items():
            if isinstance(value, Mapping) and key not in value:
                raise ValueError(
                    f"{name} has no key {key!r}; its keys are {', '.join(map(str, value))}: "
                    + suggestion(key, map(str, value), noun="keys")
                )
            part[name] = value[key] if isinstance(value, Mapping) else value
        return part

    def split(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the inputs of all keys."""
        if not any(isinstance(value, Mapping) for value in inputs.values()):
            found = ", ".join(f"{name} is a {type(value).__name__}" for name, value in inputs.items())
            raise ValueError(
                f"dict needs at least one input that is a dict; {found or 'there are none'}. The bare address of a "
                "model is the one tensor that its extractor chose; the dict it returned is <model>@raw"
            )
        return [self.pick(inputs, index) for index in range(len(self.keys))]

    def title(self, index: int) -> str:
        """Return what messages call a key."""
        return f"key {self.keys[index]!r}"
