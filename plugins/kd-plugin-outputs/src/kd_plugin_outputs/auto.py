"""Reads the outputs that most models have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kd_plugin_outputs.entries import described, entries, first_tensor, main_name
from kdcore.contracts import Extracted


class AutoExtractor:
    """Take the tensor that is meant by custom, and name everything else.

    That is the output itself if it is a tensor; its `logits`, as a key or an attribute; the key `out`
    of a dict; the first tensor of a tuple or list (no scalar, which is a loss, unless there is
    nothing else). Other entries are named by key, attribute or index, and stay as they are: a
    tuple of hidden states is still a tuple.

    Raises:
        ValueError: there is no such tensor; the message says what there is.
    """

    def __call__(self, output: Any, batch: Mapping[str, Any]) -> Extracted:
        """Return what `output` means."""
        if isinstance(output, Tensor):
            return Extracted(output)
        found = entries(output)
        name = main_name(output, found)
        if name is None and isinstance(output, (list, tuple)):
            name = next((each for each, value in found.items() if isinstance(value, Tensor)), None)
        if name is None:
            raise ValueError(_unclear(output, found))
        return Extracted(found.pop(name), found)


def _unclear(output: Any, found: Mapping[str, Any]) -> str:
    scalars = [name for name, value in found.items() if isinstance(value, Tensor) and not value.dim()]
    choice = first_tensor(found)
    if choice is None and scalars:
        return f"the output is {described(output)}; if these are losses, write output: model_losses"
    wanted = "{index: 0}" if isinstance(output, (list, tuple)) else f"{{key: {choice or '...'}}}"
    return (
        f"the output is {described(output)}: no tensor, no logits, no out, and no tuple with a tensor; "
        f"choose an entry with output: {{type: item, params: {wanted}}}"
    )
