"""Small gradients that are kept to be looked at later, if ever."""

from __future__ import annotations

from torch import Tensor, nn

from kdcore.engine.processes import Processes
from kdcore.pipeline.objective import Objective

# A step that finds its memory free again is faster than one that is given other memory.
_LARGEST = 2**10


class GradientSamples:
    """The gradient of one small parameter of each part that trains.

    It is the first parameter, which a term's gradient reaches through all others: if that is not finite, this is not
    either, in practice. Keeping it costs nothing, as every backward pass makes new gradients; nothing is computed.

    Arguments:
        objective: that has gradients now.
        processes: whose gradients are kept if each is a tensor of its own.
    """

    def __init__(self, objective: Objective, processes: Processes) -> None:
        found: dict[str, nn.Parameter] = {}
        for name, parameter in objective.named_trainable():
            part = name.rpartition(".")[0] if name.startswith("losses.") else name.partition(".")[0]
            if part not in found and processes.alike and _small(parameter.grad):
                found[part] = parameter
        self._parameters = list(found.values())

    def take(self) -> list[Tensor]:
        """Return the gradients of the latest step, unread."""
        return [gradient for each in self._parameters if (gradient := each.grad) is not None]


def _small(gradient: Tensor | None) -> bool:
    """Whether a gradient, and the memory that it keeps from others, is small."""
    return (
        gradient is not None
        and gradient.numel() <= _LARGEST
        and gradient.untyped_storage().nbytes() <= 2 * gradient.nbytes
    )
