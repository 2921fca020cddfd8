"""What class indices must be to pick one class of each distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore.contracts import Facts, TensorFacts

# What segmentation data sets write where nothing is to be seen.
VOID = 255


def check_classes(facts: Facts) -> None:
    """Raise ValueError where the data set has more classes than the logits: its labels would have no place."""
    student = facts.inputs.get("student")
    # The data set's classes say nothing about other labels, such as those of a rotation.
    other = facts.addresses.get("target", "batch:target") != "batch:target"
    if other or facts.num_classes is None or not isinstance(student, TensorFacts) or not student.shape:
        return
    if student.shape[-1] < facts.num_classes:
        raise ValueError(
            f"student has shape {student.shape}, {student.shape[-1]} classes, but the data set has "
            f"{facts.num_classes}: build the model with {facts.num_classes} classes"
        )


def check_labels(target: Tensor, logits: Tensor) -> None:
    """Raise ValueError unless `target` holds one class index for each distribution of `logits` (..., C)."""
    if target.is_floating_point() or target.is_complex() or target.dtype is torch.bool:
        raise ValueError(f"target has dtype {target.dtype}; class indices are needed")
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"target has shape {tuple(target.shape)} but student has {tuple(logits.shape)}: one class index per "
            f"distribution is needed, {tuple(logits.shape[:-1])}"
        )
    # Looking at labels on an accelerator would stall the step; there the kernel itself refuses them.
    if target.device.type == "cpu" and target.numel() and not torch.compiler.is_compiling():
        lowest, highest = (int(bound) for bound in target.aminmax())
        if lowest < 0 or highest >= logits.shape[-1]:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(
                f"target holds {wrong}; with {logits.shape[-1]} classes, labels are 0 to {logits.shape[-1] - 1}"
                + _remedy(wrong)
            )


def _remedy(wrong: int) -> str:
    # Other numbers beyond the classes are hardly meant to be left out: target is an index, a mask or a token.
    if wrong >= 0 and wrong != VOID:
        return ": give target: the address of the class indices, or mend them in the data set"
    masked = f"{{type: masked, params: {{ignore_index: {wrong}}}}}"
    return (
        f". To leave out positions so labelled, write wrapper: {masked} (where causal shifts: [causal, {masked}]); "
        "else give target: another address"
    )
