"""What compaction did, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kdcore.compaction.costs import Costs
from kdcore.compaction.resize import Plan

# What people call the attributes by which modules know their sizes.
_WORDS = {
    "out_channels": "outputs",
    "out_features": "outputs",
    "in_channels": "inputs",
    "in_features": "inputs",
    "num_features": "channels",
    "num_channels": "channels",
    "num_heads": "heads",
    "heads": "heads",
    "num_attention_heads": "heads",
    "n_heads": "heads",
}


@dataclass(frozen=True)
class Change:
    """How many indices of a tensor are left: `what` is "outputs", "inputs", "heads" or the name of a tensor."""

    module: str
    what: str
    before: int
    after: int


@dataclass(frozen=True)
class Report:
    """What compaction did: costs before and after, the largest relative difference of outputs, each change.

    `stay` counts, by module, outputs whose weights are all 0 and which have to stay; `folded` names biases that took up
    constants; `messages` says which modules work with a fixed size.
    """

    before: Costs
    after: Costs
    difference: float
    batches: int
    changes: list[Change]
    stay: dict[str, int]
    folded: list[str]
    messages: list[str]


def changes(model: nn.Module, made: Plan) -> list[Change]:
    """Return the numbers that are smaller now, module by module."""
    found = []
    for name, resized in made.modules.items():
        module = model.get_submodule(name)
        for key, after in resized.attributes.items():
            if key == "groups":
                continue
            found.append(Change(name, _WORDS.get(key, key), int(getattr(module, key)), after))
        if not resized.attributes:
            for key, shape in resized.shapes.items():
                old = getattr(module, key)
                dims = [dim for dim, size in enumerate(shape) if old is not None and old.shape[dim] != size]
                found += [Change(name, key, old.shape[dim], shape[dim]) for dim in dims]
    return found


def zero_rows(model: nn.Module) -> dict[str, int]:
    """Return how many outputs of each linear layer and convolution have weights that are all 0."""
    found = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and isinstance(weight, Tensor):
            count = int((weight.detach() == 0).flatten(1).all(1).sum())
            if count:
                found[name] = count
    return found
