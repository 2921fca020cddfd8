"""What `crd` demands of its params, its facts and its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdcore.contracts import Facts, TensorFacts
from kdcore.shapes import check_rank, check_same_batch, check_same_shape

SAMPLINGS = ("exact", "relax")


def check_params(num_negatives: int, temperature: float, momentum: float, eps: float, sampling: str) -> None:
    """Raise ValueError unless every param is in its range."""
    if num_negatives < 1:
        raise ValueError(f"num_negatives is {num_negatives}; it must be 1 or more")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}; it must be at least 0 and below 1")
    if not eps >= 0:
        raise ValueError(f"eps is {eps}; it must be 0 or more")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is {sampling!r}; it must be one of {', '.join(SAMPLINGS)}")


def check_sizes(facts: Facts, num_samples: int | None, dim: int | None) -> tuple[int, int]:
    """Return how many samples the banks hold and how long their rows are; raises ValueError where that is unknown."""
    if num_samples is None:
        num_samples = facts.num_samples
    if num_samples is None:
        raise ValueError(
            "crd does not know the length of the training set; give the param num_samples, or pass "
            "build_objective the dataset"
        )
    if facts.num_samples is not None and facts.num_samples > num_samples:
        raise ValueError(f"num_samples is {num_samples} but the training set has {facts.num_samples}; leave it out")
    student = facts.inputs.get("student")
    if isinstance(student, TensorFacts):
        if len(student.shape) != 2:
            raise ValueError(f"student has shape {student.shape}; embeddings (B, D) are needed, as crd_head makes them")
        if dim is not None and dim != student.shape[1]:
            raise ValueError(f"dim is {dim} but student has shape {student.shape}; leave dim out")
        dim = student.shape[1]
    if dim is None:
        raise ValueError("crd does not know the size of the embeddings; give the param dim")
    return num_samples, dim


def labels_of(facts: Facts, num_samples: int) -> Tensor:
    """Return the labels of the training set; raises ValueError where they cannot tell classes apart."""
    if facts.targets is None:
        raise ValueError(
            "sampling is exact, which needs the labels of all samples, but the training set has no `targets`; give "
            "it that attribute, bind contrast_index, or write sampling: relax"
        )
    try:
        return whole_labels(facts.targets, num_samples)
    except ValueError as error:
        raise ValueError(f"the training set: {error}; otherwise write sampling: relax") from error


def whole_labels(labels: Any, num_samples: int) -> Tensor:
    """Return labels (N,) as int64; raises ValueError unless they are whole numbers from 0, one for each sample."""
    targets = torch.as_tensor(labels)
    if targets.shape != (num_samples,) or targets.is_floating_point():
        raise ValueError(
            f"its targets have shape {tuple(targets.shape)} and type {targets.dtype}; sampling exact needs one whole "
            f"number for each of {num_samples} samples"
        )
    targets = targets.to(torch.int64)
    if len(targets) and int(targets.min()) < 0:
        raise ValueError(f"its targets go down to {int(targets.min())}; classes are 0 or more")
    return targets


def check_call(
    bank: Tensor,
    num_classes: int,
    student: Tensor,
    teacher: Tensor,
    index: Tensor,
    target: Tensor | None,
    contrast_index: Tensor | None,
) -> None:
    """Raise ValueError unless the inputs fit one another and the banks."""
    check_rank(2, 2, student=student, teacher=teacher)
    check_same_shape(student=student, teacher=teacher)
    if student.shape[1] != bank.shape[1]:
        raise ValueError(f"student has shape {tuple(student.shape)}; the banks hold embeddings of {bank.shape[1]}")
    whole = {"index": index, "target": target, "contrast_index": contrast_index}
    given: dict[str, Any] = {name: each for name, each in whole.items() if each is not None}
    for name, each in given.items():
        rank = 2 if name == "contrast_index" else 1
        check_rank(rank, rank, **{name: each})
        if each.is_floating_point():
            raise ValueError(f"{name} has type {each.dtype}; whole numbers are needed")
    check_same_batch(student=student, **given)
    if contrast_index is not None and contrast_index.shape[1] < 2:
        raise ValueError(
            f"contrast_index has shape {tuple(contrast_index.shape)}; a row is a positive, then at least 1 negative"
        )
    _check_range(len(bank), "the banks have rows", index=index, contrast_index=contrast_index)
    if num_classes:
        _check_range(num_classes, "the training set has classes", target=target)


def _check_range(limit: int, what: str, **numbers: Tensor | None) -> None:
    """Raise ValueError where a number is outside; an accelerator is not waited for, it stops by itself."""
    if torch.compiler.is_compiling():  # the values are not known
        return
    for name, each in numbers.items():
        if each is not None and each.device.type == "cpu" and each.numel():
            low, high = (int(bound) for bound in each.aminmax())
            if low < 0 or high >= limit:
                raise ValueError(f"{name} has numbers from {low} to {high}; {what} 0 to {limit - 1}")
