"""What an output extractor returns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from kdcore.component import Kind
from kdcore.contracts import Extracted
from kdcore.testing.check import check
from kdcore.testing.nested import floating, tensors
from kdcore.testing.result import Finding
from kdcore.testing.subject import Subject, shown


@check(
    {Kind.OUTPUT_EXTRACTOR},
    "it returns an Extracted of the output's own tensors, whose gradients reach the model",
    after=("builds", "defaults_kept"),
)
def extracts(subject: Subject) -> None:
    """Call it with the example's output and batch."""
    inputs = subject.inputs()
    learning = subject.learning(inputs, ("output",))
    found = subject.call(subject.build(), inputs)
    if not isinstance(found, Extracted):
        raise Finding(f"it returned {shown(found)}; it must return kdcore.contracts.Extracted(value, named, losses)")
    if found.value is not None and not isinstance(found.value, Tensor):
        raise Finding(f"its value is {shown(found.value)}; it must be a tensor or None")
    if not isinstance(found.named, Mapping) or not isinstance(found.losses, Mapping):
        raise Finding("named and losses must be mappings by name")
    for name, loss in found.losses.items():
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise Finding(f"its loss {name!r} is {shown(loss)}; the losses that a model returns are scalars")
    if found.value is None and not found.named and not found.losses:
        raise Finding(f"it found nothing in an output of {sum(1 for _ in tensors(inputs['output']))} tensors")
    if learning:
        _check_learning(found)


def _check_learning(found: Extracted) -> None:
    parts = {"value": found.value, **{f"named {name!r}": each for name, each in found.named.items()}}
    parts.update({f"loss {name!r}": each for name, each in found.losses.items()})
    for name, part in parts.items():
        if any(not each.requires_grad for each in floating(part)):
            raise Finding(
                f"its {name} has no gradient, though the model's output has: a loss on it would not train the model. "
                "Return the output's own tensor, without .detach(), .data or torch.no_grad()"
            )
