"""Reads the losses that a model returns itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kd_plugin_outputs.entries import described, entries, first_tensor, main_name
from kdcore.contracts import Extracted


class ModelLossesExtractor:
    """Take the model's own losses as terms `<model>.<key>`, and name everything else.

    Of an object with the attribute `loss` that is the one loss (its other scalars are parts of it).
    Of anything else every scalar is a loss, as in the dicts that detectors return in training; the
    output itself may be one, named `loss`. The value is what `auto` takes, else the first tensor
    that is no scalar, else None.

    Raises:
        ValueError: there is no loss while gradients are enabled. Without them a model in eval mode
            may return its predictions instead.
    """

    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        """Return the losses and what else is in `output`."""
        found = {"loss": output} if _is_loss(output) else entries(output)
        own = {"loss": output.loss} if hasattr(output, "loss") else found
        losses = {name: value for name, value in own.items() if _is_loss(value)}
        if not losses and torch.is_grad_enabled():
            raise ValueError(
                f"the output is {described(output)}; there is no loss in it. Most models return one only in training "
                "and only when they are given labels (inputs: {labels: batch:target})"
            )
        others = {name: value for name, value in found.items() if name not in losses}
        if isinstance(output, Tensor):
            return Extracted(None if losses else output, others, losses)
        name = main_name(output, others) or first_tensor(others)
        return Extracted(None if name is None else others.pop(name), others, losses)


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.dim() and value.is_floating_point()
