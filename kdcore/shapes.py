"""Shape checks whose messages name the inputs, for losses and adapters."""

from __future__ import annotations

from torch import Tensor


def check_same_shape(**inputs: Tensor) -> None:
    """Raise ValueError unless all named tensors have one shape, and numbers in it; broadcasting hides mistakes."""
    (first, reference), *others = inputs.items()
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{first} has shape {tuple(reference.shape)} but {name} has {tuple(tensor.shape)}; "
                "they must be equal" + _remedy(reference, tensor)
            )
    check_not_empty(**{first: reference})


def check_rank(minimum: int, maximum: int | None = None, **inputs: Tensor) -> None:
    """Raise ValueError unless every named tensor has between `minimum` and `maximum` dimensions."""
    for name, tensor in inputs.items():
        if tensor.dim() < minimum or (maximum is not None and tensor.dim() > maximum):
            wanted = f"{minimum}" if minimum == maximum else f"{minimum} to {maximum}" if maximum else f"{minimum}+"
            needed = "dimension is" if wanted == "1" else "dimensions are"
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {wanted} {needed} needed")


def check_same_batch(**inputs: Tensor) -> None:
    """Raise ValueError unless all named tensors have as many rows, at least one, and numbers in them."""
    rows = {name: tensor.shape[0] for name, tensor in inputs.items()}
    if len(set(rows.values())) > 1:
        raise ValueError("batch sizes differ: " + ", ".join(f"{name} has {count} rows" for name, count in rows.items()))
    check_not_empty(**inputs)


class FewSamplesError(ValueError):
    """A batch of one sample, where samples are related to each other: no other address and no adapter helps."""


def check_several(relates: str, **inputs: Tensor) -> None:
    """Raise FewSamplesError unless every named tensor has two rows or more; `relates` says who does what with them."""
    for name, tensor in inputs.items():
        if len(tensor) < 2:
            raise FewSamplesError(f"{name} has shape {tuple(tensor.shape)}; {relates} and needs 2 or more in a batch")


def check_not_empty(**inputs: Tensor) -> None:
    """Raise ValueError for a tensor without a number, whose mean is NaN; the two checks above ask this too."""
    for name, tensor in inputs.items():
        if tensor.numel() == 0:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, not one number: an empty batch teaches nothing. Leave it "
                "out, or put a loss over positions under the masked wrapper, which gives 0 where none is left"
            )


def _remedy(first: Tensor, second: Tensor) -> str:
    if first.shape[:-1] == second.shape[:-1]:
        return " (if the last dimension is classes, both models need the same classes or vocabulary)"
    return " (an adapter can change a shape)"
