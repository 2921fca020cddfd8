"""The 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from kdcore.errors import DataError, suggestion

SPLITS = ("train", "val", "test")
NUM_CLASSES = 10


class Digits(Dataset[dict[str, Tensor]]):
    """Scans of handwritten digits, 8 x 8 pixels, in a fixed split: 1,078 train, 360 val, 359 test.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), its test part,
    as `sklearn.datasets.load_digits` has it. Every class is split 60 / 20 / 20 by one permutation
    that no seed changes, so results of different runs can be compared.

    A sample is `{"input": float32 (1, 8, 8) in [0, 1], "target": int64 scalar}`.

    Arguments:
        split: `train`, `val` or `test`.
        samples_per_class: keep so many of each class; a smaller number keeps a subset of a larger one's.
        augment: move every image by up to one pixel each way, drawn from torch's global generator.

    Attributes:
        targets: the labels by sample index, int64 (N,).
        num_classes, class_names: 10 and their names.
        rows_per_sample: rows of a batch per sample, 1.
        random: whether samples depend on random numbers; true only with `augment`.

    Raises DataError for an unknown split and for more samples per class than there are.
    """

    num_classes = NUM_CLASSES
    class_names = tuple(str(digit) for digit in range(NUM_CLASSES))
    rows_per_sample = 1

    def __init__(self, split: str = "train", samples_per_class: int | None = None, augment: bool = False) -> None:
        images, targets = _scans()
        index = torch.from_numpy(_chosen(split, samples_per_class))
        self.images: Tensor = images[index]
        self.targets: Tensor = targets[index]
        self.random = augment
        # A margin once here makes the shift of a sample a mere crop.
        self._margin = F.pad(self.images, (1, 1, 1, 1)) if augment else None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self._image(index), "target": self.targets[index]}

    def _image(self, index: int) -> Tensor:
        if self._margin is None:
            return self.images[index]
        top, left = torch.randint(3, (2,)).tolist()
        return self._margin[index, :, top : top + 8, left : left + 8]


@functools.cache
def _scans() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = torch.from_numpy(scans.images).to(torch.float32).div_(16).unsqueeze(1)
    return images, torch.from_numpy(scans.target).to(torch.int64)


@functools.cache
def _members() -> dict[str, tuple[np.ndarray, ...]]:
    """Return per split the indices of every class, in the order in which `samples_per_class` takes them."""
    targets = _scans()[1].numpy()
    # numpy promises that RandomState's streams never change.
    generator = np.random.RandomState(0)
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for digit in range(NUM_CLASSES):
        members = generator.permutation(np.flatnonzero(targets == digit))
        ends = np.rint(len(members) * np.array([0.6, 0.8])).astype(int)
        for split, part in zip(SPLITS, np.split(members, ends), strict=True):
            parts[split].append(part)
    return {split: tuple(part) for split, part in parts.items()}


def _chosen(split: str, samples_per_class: int | None) -> np.ndarray:
    if split not in SPLITS:
        raise DataError(f"digits has no split {split!r}", repair=suggestion(split, SPLITS))
    members: Sequence[np.ndarray] = _members()[split]
    smallest = min(map(len, members))
    if samples_per_class is not None and not 1 <= samples_per_class <= smallest:
        raise DataError(
            f"samples_per_class is {samples_per_class}, but the smallest class of split {split!r} has {smallest}",
            repair=f"give a number from 1 to {smallest}, or leave it out for all samples",
        )
    return np.sort(np.concatenate([part[:samples_per_class] for part in members]))
