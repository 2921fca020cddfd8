"""What a data set yields, and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kdcore.component import Kind
from kdcore.testing.check import check
from kdcore.testing.nested import tensors
from kdcore.testing.pickled import pickled
from kdcore.testing.randomness import seeded
from kdcore.testing.result import Finding, NotApplicable
from kdcore.testing.subject import Subject, shown
from kdcore.testing.use import Found, uses

LOOKED_AT = 16
LABELS = 256
TOGETHER = 3
# What losses and metrics leave out: no class, and not wrong.
IGNORED = -100


def spread(count: int, most: int = LOOKED_AT) -> list[int]:
    """Return indices from the first to the last of `count` samples, all of them if these are few."""
    if count <= most:
        return list(range(count))
    return sorted({round(step * (count - 1) / (most - 1)) for step in range(most)})


@check(
    {Kind.DATASET},
    "samples are dicts up to the last one, the same ones under one seed",
    after=("builds", "defaults_kept"),
)
def samples(subject: Subject) -> None:
    """Read samples from the first to the last, and backwards from a pickled copy, as workers may, and a second one."""
    data = subject.build()
    if not len(data):
        raise Finding("it is empty with the example's params")
    indices = spread(len(data))
    found = _read(data, indices)
    for index, sample in found.items():
        if not isinstance(sample, Mapping):
            raise Finding(f"sample {index} is {shown(sample)}; samples are dicts such as {{'input': x, 'target': y}}")
        if "index" in sample:
            raise Finding("its samples hold 'index', which the engine adds: give that entry another name")
    twins = _read(pickled(data), list(reversed(indices)))
    again = _read(subject.build(), indices)
    for index, sample in found.items():
        if not _same(sample, twins[index]):
            raise Finding(
                f"sample {index}, seeded alike, is another when a copy reads the samples backwards: draw "
                "from torch's global generator, Python's or numpy's, which are seeded for each sample"
            )
        if not _same(sample, again[index]):
            raise Finding(
                f"sample {index} is another in a data set built again under the same seed: a resumed run would train "
                "on other data. What the constructor draws must come from a seed of its own"
            )


def _read(data: Any, indices: list[int], seed: int = 0) -> dict[int, Any]:
    found = {}
    for index in indices:
        with seeded(seed + index):
            try:
                found[index] = data[index]
            except Exception as error:  # a data set may fail in any way; the cause is chained and named
                raise Finding(
                    f"it says that it has {len(data)} samples, but reading sample {index} raised "
                    f"{type(error).__name__}: {error}"
                ) from error
    return found


@check({Kind.DATASET}, "random = False holds", after=("samples",))
def random(subject: Subject) -> None:
    """Read samples under two seeds, and from data sets built under two seeds."""
    data = subject.build()
    if getattr(data, "random", True) is not False:
        raise NotApplicable("it does not promise that its samples are not random")
    with seeded(1):
        other = subject.construct()
    for index in spread(len(data)):
        with seeded(1):
            one = data[index]
        with seeded(2):
            two, built = data[index], other[index]
        if not _same(one, two):
            raise Finding(f"it says random = False, but sample {index} depends on the seed")
        if not _same(one, built):
            raise Finding(
                f"it says random = False, but sample {index} depends on the seed under which it was built: a teacher's "
                "outputs that are cached, or a resumed run, would belong to other data. Draw in the constructor from a "
                "generator with a seed of its own"
            )


@check({Kind.DATASET}, "what it says about its labels is true", after=("samples",))
def labels(subject: Subject) -> None:
    """Compare targets, num_classes and class_names with the samples."""
    data = subject.build()
    targets, classes = getattr(data, "targets", None), getattr(data, "num_classes", None)
    names = getattr(data, "class_names", None)
    if targets is None and classes is None:
        raise NotApplicable("it has neither targets nor num_classes")
    if names is not None and classes is not None and len(names) != classes:
        raise Finding(f"class_names has {len(names)} entries but num_classes is {classes}")
    if targets is not None:
        if len(targets) != len(data):
            raise Finding(f"targets has {len(targets)} entries but the data set {len(data)} samples")
        _check_range(torch.as_tensor(targets), classes, "targets holds")
    rows = getattr(data, "rows_per_sample", 1)
    for index in spread(len(data), LABELS) if rows == 1 else ():
        target = data[index].get("target")
        if target is None:
            continue
        _check_range(torch.as_tensor(target), classes, f"sample {index} has")
        if targets is not None and int(target) != int(targets[index]):
            raise Finding(f"sample {index} has target {int(target)} but targets[{index}] is {int(targets[index])}")


def _check_range(found: torch.Tensor, classes: int | None, where: str) -> None:
    """Refuse labels that are no class; floating-point ones, as of mixed classes, are none."""
    if found.is_floating_point() or not found.numel():
        return
    known = found[found != IGNORED]
    if known.numel() and int(known.min()) < 0:
        raise Finding(f"{where} the label {int(known.min())}; labels go from 0, and {IGNORED} is left out by losses")
    if classes is not None and known.numel() and int(known.max()) >= classes:
        raise Finding(f"{where} the label {int(known.max())} but num_classes is {classes}")


@check({Kind.DATASET}, "its samples make a batch, none of them lost", after=("samples",))
def batch(subject: Subject) -> None:
    """Collate a few samples, by its own collate if it has one, and count the rows."""
    data = subject.build()
    collate = getattr(data, "collate", None) or torch.utils.data.default_collate
    given = [data[index] for index in range(min(len(data), TOGETHER))]
    made = collate(given)
    if not isinstance(made, Mapping) or not any(True for _ in tensors(made)):
        raise Finding(f"{len(given)} samples collated are {shown(made)}; a batch is a dict with tensors")
    each = getattr(data, "rows_per_sample", 1)
    wanted = {len(given), len(given) * each}
    rows = {name: len(value) for name, value in made.items() if isinstance(value, torch.Tensor) and value.dim()}
    lost = {name: count for name, count in rows.items() if name in ("input", "target") and count not in wanted}
    if lost or (rows and not wanted & set(rows.values())):
        name, count = next(iter((lost or rows).items()))
        raise Finding(
            f"{len(given)} samples collated have {count} rows in {name!r}, not {len(given) * each}"
            + (f" (rows_per_sample is {each})" if each != 1 else "")
            + ": batch['index'] has one for every sample, and each row belongs to one"
        )


@uses(Kind.DATASET)
def _used(subject: Subject, number: int) -> Found:
    data = subject.build()
    found = _read(data, spread(len(data), number + TOGETHER), seed=number)
    return [value for sample in found.values() for value in tensors(sample)]


def _same(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(torch.equal(first.nan_to_num(), second.nan_to_num()) for first, second in pairs)
