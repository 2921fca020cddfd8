"""A model from a folder that `kd export` wrote."""

from __future__ import annotations

from torch import nn

import kdcore


def compact(folder: str) -> nn.Module:
    """Return the compact model in `folder`, with its weights, in eval mode.

    Arguments:
        folder: with model.safetensors and compact.json.

    Raises:
        WeightsError: a file is missing or damaged, or does not fit the model.
        PluginError: no plugin offers the type of model that is recorded.
    """
    return kdcore.load_compact(folder)
