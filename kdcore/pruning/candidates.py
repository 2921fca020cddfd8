"""The weights of a model that could be pruned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcore.pruning.layout import Layout

TYPES = ("Linear", "Conv1d", "Conv2d", "Conv3d", "MultiheadAttention", "Conv1D")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Candidate(NamedTuple):
    """A weight that could be pruned."""

    name: str
    module: nn.Module
    attribute: str
    layout: Layout

    @property
    def parameter(self) -> str:
        """The parameter's name in the model."""
        return (
            self.name if self.name.rpartition(".")[2] == self.attribute else f"{self.name}.{self.attribute}".strip(".")
        )


def candidates(model: nn.Module) -> Iterator[Candidate]:
    """Yield every weight of the model that is a linear map or a convolution of 1 to 3 dimensions."""
    for name, module in model.named_modules():
        dot = f"{name}." if name else ""
        if isinstance(module, nn.MultiheadAttention):
            for key in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                weight = getattr(module, key)
                if weight is not None:
                    yield Candidate(f"{dot}{key}", module, key, Layout(tuple(weight.shape)))
        elif isinstance(module, nn.Linear):
            yield Candidate(name, module, "weight", Layout((module.out_features, module.in_features)))
        elif isinstance(module, _CONVOLUTIONS) and not module.transposed:
            yield Candidate(name, module, "weight", Layout(_shape(module), groups=module.groups))
        elif is_transposed(module):
            yield Candidate(name, module, "weight", Layout(_shape(module), transposed=True))


def _shape(module: nn.Module) -> tuple[int, ...]:
    """Return the shape of a module's weight, nothing where it is not known before the first run."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return () if is_lazy(weight) else tuple(weight.shape)


def of_types(module: nn.Module, types: Sequence[str]) -> bool:
    """Whether a module or a class that it derives from is called so; attention and Conv1D are linear maps too."""
    names = {base.__name__ for base in type(module).__mro__}
    if isinstance(module, nn.MultiheadAttention) or is_transposed(module):
        names.add("Linear")
    return not names.isdisjoint(types)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer keeps its weight as (inputs, outputs), as transformers' Conv1D does."""
    return type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d) and hasattr(module, "nf")
