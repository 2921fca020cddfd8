"""What the rules of operations look at and write to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from kdcore.compaction.convolution import Grouped
from kdcore.compaction.kept import Kept
from kdcore.compaction.operations import is_convolution, is_padded
from kdcore.compaction.program import Program, Slot, Step
from kdcore.compaction.variation import Variation


@dataclass
class State:
    """A program, which of its values vary, the model that it was recorded from, and what is kept so far."""

    program: Program
    variation: Variation
    model: nn.Module
    kept: Kept
    grouped: dict[Slot, Grouped] = field(default_factory=dict)
    moves: dict[fx.Node, Moves] = field(default_factory=dict)

    def tensor(self, step: Step, name: str) -> Slot | None:
        """Return the tensor that a step takes as the argument so named."""
        value = step.arguments.get(name)
        return self.program.slot(value) if isinstance(value, fx.Node) else None

    def needed(self, step: Step, name: str) -> Slot:
        """Return the tensor that a step cannot do without."""
        slot = self.tensor(step, name)
        assert slot is not None, (step.op, name)
        return slot

    def reached(self, step: Step) -> bool:
        """Whether anything of what a step yields is kept."""
        return any(self.kept.reached(slot) for slot in self.program.written_by(step))

    def value(self, slot: Slot) -> Tensor:
        """Return what a tensor held on the batch."""
        return self.program.values[slot].detach()

    def broadcast(self, operands: Iterable[Slot], out: Slot, trailing: int = 0) -> None:
        """Tie the dimensions of operands that are broadcast to `out`, all but the last `trailing`."""
        kept = self.kept
        sizes = [len(each) for each in kept.of(out)]
        for slot in operands:
            own = [len(each) for each in kept.of(slot)]
            for back in range(trailing + 1, min(len(own), len(sizes)) + 1):
                dim, other = len(own) - back, len(sizes) - back
                if own[dim] == sizes[other]:
                    kept.tie((slot, dim), (out, other))
                elif kept.reached(out):
                    kept.keep(slot, dim)

    def foldable(self, step: Step) -> bool:
        """Whether constants that enter a contraction can move into its bias, which only it uses."""
        if is_convolution(step) and is_padded(step):
            return False
        weight = self.needed(step, "weight")
        if weight not in self.program.parameters or len(self.kept.users(weight)) > 1:
            return False
        bias = self.tensor(step, "bias")
        if bias is not None:
            return bias in self.program.parameters and len(self.kept.users(bias)) == 1
        # A bias is added only where the module's own forward would use it.
        plain = isinstance(self.model.get_submodule(step.module), (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        return plain and f"{step.module}.weight".lstrip(".") in self.program.parameters[weight]


@dataclass(frozen=True)
class Moves:
    """Where a structural step's elements come from.

    `read` numbers the elements of each tensor that it reads, first to last; `sources` hold, for each tensor that it
    yields, the number of every element, -1 where padding added it.
    """

    read: list[tuple[Slot, int, int]]
    sources: list[Tensor]
