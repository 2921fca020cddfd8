"""What is pruned: layers, the weights that make them up, and what goes with their blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from kdcore.pruning.blocks import Blocks


@dataclass(eq=False)
class Part:
    """One tensor of a layer.

    Arguments:
        name: of the parameter in its model.
        module: that holds it, under `attribute`.
        blocks: the pattern over it.
        factor: 1 for each element that stays and 0 for the others, in the parameter's own dtype, by which it is
            multiplied several times as fast as by a mask of bools; None before the first masks, and where all stay.
    """

    name: str
    module: nn.Module
    attribute: str
    blocks: Blocks
    factor: Tensor | None = None

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter, looked up each time, for wrappers may replace it."""
        found = self.module._parameters[self.attribute]
        assert found is not None
        return found

    @property
    def mask(self) -> Tensor | None:
        """Which elements stay, as bools."""
        return None if self.factor is None else self.factor != 0

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self.factor = None if mask is None else mask.to(self.parameter)


@dataclass(eq=False)
class PrunedLayer:
    """A layer under one group of the config.

    Arguments:
        name: of the module in its model (of the parameter, where a module holds several weights).
        group: the number of its group, counted from 0.
        pattern: as written.
        parts: the weights that are scored and masked.
        coupled: what is masked with them: biases, and a normalisation's weight and bias.
        minimum: the sparsity that it has at least at the end of the schedule.
        maximum: the sparsity that it has at most.
        target: of its group.
        masked: the number of its weights that are masked.
    """

    name: str
    group: int
    pattern: str
    parts: list[Part]
    coupled: list[Part] = field(default_factory=list)
    minimum: float = 0.0
    maximum: float = 1.0
    target: float = 0.0
    masked: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its weight, of the first where there are several."""
        return self.parts[0].blocks.weight_shape

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return self.parts[0].blocks.count

    @property
    def block_shape(self) -> tuple[int, ...]:
        """The shape of what has one value per block."""
        return self.parts[0].blocks.shape

    @property
    def weights(self) -> int:
        """The number of weights; what is coupled does not count."""
        return sum(part.blocks.elements for part in self.parts)

    @property
    def size(self) -> int:
        """The number of weights that go with a block."""
        return sum(part.blocks.size for part in self.parts)

    @property
    def sparsity(self) -> float:
        """The part of its weights that is masked."""
        return self.masked / self.weights

    @property
    def kept(self) -> Tensor | None:
        """Which blocks stay; None before the first masks, and where all do."""
        mask = self.parts[0].mask
        return None if mask is None else self.parts[0].blocks.kept(mask)
