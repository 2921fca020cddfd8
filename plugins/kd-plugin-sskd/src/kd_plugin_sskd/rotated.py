"""Batches in which every image is followed by its rotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from kdcore import create
from kdcore.errors import DataError

# What a data set may say about itself.
SAID = ("targets", "num_classes", "class_names", "random", "batches")


class Rotated(Dataset[dict[str, Any]]):
    """Another data set, whose batches hold each image and its rotations by 90, 180 and 270 degrees, counterclockwise.

    Samples and their order are those of the other data set. Its `collate` is used, where it has one; then n images
    (n, ..., S, S) become (4 n, ..., S, S). Everything else in a batch keeps its n rows, labels too.

    Arguments:
        dataset: the data set's name, or `{"type": name, "params": {...}}`.
        key: which entry of a batch holds the images.

    Attributes:
        rows_per_sample: 4.
        targets, num_classes, class_names, random: those of the other data set.

    Raises DataError, on the first batch, where images are not square tensors.
    """

    rows_per_sample = 4

    def __init__(self, dataset: str | Mapping[str, Any], key: str = "input") -> None:
        part: Mapping[str, Any] = {"type": dataset} if isinstance(dataset, str) else dataset
        self.key = key
        self.dataset = create("dataset", part["type"], **part.get("params", {}))
        if getattr(self.dataset, "rows_per_sample", 1) != 1:
            raise DataError(f"{part['type']} has several rows per sample already, which cannot be rotated")
        for name in SAID:
            if hasattr(self.dataset, name):
                setattr(self, name, getattr(self.dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[index]  # type: ignore[no-any-return]

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch of the samples, its images rotated."""
        batch = (getattr(self.dataset, "collate", None) or default_collate)(samples)
        return {**batch, self.key: rotate(batch.get(self.key), self.key)}


def rotate(images: Any, key: str = "input") -> Tensor:
    """Return (4 n, ..., S, S), each of n images (n, ..., S, S) followed by its three rotations."""
    if not isinstance(images, Tensor) or images.dim() < 3 or images.shape[-1] != images.shape[-2]:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DataError(
            f"{key!r} of a batch is {found}; only square images (n, ..., S, S) can be rotated into one tensor",
            repair="give the entry that holds the images with key:, and crop them square in the data set",
        )
    return torch.stack([torch.rot90(images, turns, (-2, -1)) for turns in range(4)], 1).flatten(0, 1)
