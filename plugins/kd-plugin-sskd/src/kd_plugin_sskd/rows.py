"""Batches in which every image is followed by its three rotations."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore.shapes import check_rank

ROTATIONS = 4


def check_rows(**inputs: Tensor) -> None:
    """Raise ValueError unless every input is (4 n, D) with n of at least 1."""
    check_rank(2, 2, **inputs)
    for name, rows in inputs.items():
        if len(rows) == 0 or len(rows) % ROTATIONS:
            raise ValueError(
                f"{name} has shape {tuple(rows.shape)}, but rows come in fours, an image and its rotations by 90, 180 "
                "and 270 degrees: the data set `rotated` makes such batches of any other"
            )


def originals(rows: Tensor) -> Tensor:
    """Return the rows (n, D) of images as they are."""
    return rows[::ROTATIONS]


def rotations(rows: Tensor) -> Tensor:
    """Return the rows (3 n, D) of rotated images."""
    return rows.reshape(-1, ROTATIONS, rows.shape[1])[:, 1:].flatten(0, 1)


def full_precision(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, anything else as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cosines(embedding: Tensor) -> Tensor:
    """Return the cosines (3 n, n) of rotated images and images as they are; a vector of zeros has cosine 0."""
    length = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
    unit = embedding / torch.where(length > 0, length, 1)
    return rotations(unit) @ originals(unit).T
