"""What a data set yields, and what it says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from kdcore.component import Kind
from kdcore.testing.check import check
from kdcore.testing.nested import tensors
from kdcore.testing.pickled import pickled
from kdcore.testing.randomness import seeded
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject, shown

LOOKED_AT = 8


@check({Kind.DATASET}, "samples are dicts, the same ones under one seed", after=("builds",))
def samples(subject: Subject) -> None:
    """Read a few samples in order, and backwards from a pickled copy, as worker processes may."""
    data = subject.build()
    if not len(data):
        raise Finding("it is empty with the example's params")
    indices = range(min(len(data), LOOKED_AT))
    found = _read(data, indices)
    twins = _read(pickled(data), reversed(indices))
    for index, sample in found.items():
        if not isinstance(sample, Mapping):
            raise Finding(f"sample {index} is {shown(sample)}; samples are dicts such as {{'input': x, 'target': y}}")
        if "index" in sample:
            raise Finding("its samples hold 'index', which the engine adds: give that entry another name")
        if not _same(sample, twins[index]):
            raise Finding(
                f"sample {index}, seeded alike, is another when a copy reads the samples backwards: draw "
                "from torch's global generator, Python's or numpy's, which are seeded for each sample"
            )


@check({Kind.DATASET}, "random = False holds", after=("samples",))
def random(subject: Subject) -> None:
    """Read a few samples under two seeds."""
    data = subject.build()
    if getattr(data, "random", True):
        raise NotApplicable("it does not promise that its samples are not random")
    for index in range(min(len(data), LOOKED_AT)):
        with seeded(1):
            one = data[index]
        with seeded(2):
            other = data[index]
        if not _same(one, other):
            raise Finding(f"it says random = False, but sample {index} depends on the seed")


@check({Kind.DATASET}, "what it says about its labels is true", after=("samples",))
def labels(subject: Subject) -> None:
    """Compare targets, num_classes and class_names with the samples."""
    data = subject.build()
    targets, classes = getattr(data, "targets", None), getattr(data, "num_classes", None)
    names, rows = getattr(data, "class_names", None), getattr(data, "rows_per_sample", 1)
    if targets is None and classes is None:
        raise NotApplicable("it has neither targets nor num_classes")
    if names is not None and classes is not None and len(names) != classes:
        raise Finding(f"class_names has {len(names)} entries but num_classes is {classes}")
    if targets is None:
        return
    if len(targets) != len(data):
        raise Finding(f"targets has {len(targets)} entries but the data set {len(data)} samples")
    highest = int(torch.as_tensor(targets).max())
    if classes is not None and highest >= classes:
        raise Finding(f"targets holds the label {highest} but num_classes is {classes}")
    for index in range(min(len(data), LOOKED_AT)) if rows == 1 else ():
        target = data[index].get("target")
        if target is not None and int(target) != int(targets[index]):
            raise Finding(f"sample {index} has target {int(target)} but targets[{index}] is {int(targets[index])}")


@check({Kind.DATASET}, "its samples make a batch", after=("samples",))
def batch(subject: Subject) -> None:
    """Collate a few samples, by its own collate if it has one."""
    data = subject.build()
    collate = getattr(data, "collate", torch.utils.data.default_collate)
    made = collate([data[index] for index in range(min(len(data), 2))])
    if not isinstance(made, Mapping) or not any(True for _ in tensors(made)):
        raise Finding(f"two samples collated are {shown(made)}; a batch is a dict with tensors")


def _read(data: Any, indices: Iterable[int]) -> dict[int, Any]:
    found = {}
    for index in indices:
        with seeded(index):
            found[index] = data[index]
    return found


def _same(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(torch.equal(first.nan_to_num(), second.nan_to_num()) for first, second in pairs)
