"""Whether a data set feeds a model the same for a sample, whenever and with whatever others it is drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdcore.config.config import CacheConfig, ModelConfig
from kdcore.engine.loader import Loader
from kdcore.errors import DataError, Place
from kdcore.pipeline.randomness import kept_generators
from kdcore.pipeline.readers import batch_reader
from kdcore.pipeline.versions import leaves

_DRAWN = 16
_EPOCHS = (1, 2, 3)


def steady_entries(loader: Loader, model: ModelConfig) -> list[Any]:
    """Return what a model is fed of a few samples spread over a data set.

    A data set that says `random = False` and has no collate of its own is trusted; any other is
    drawn again, as in later epochs and as one batch.

    Raises:
        DataError: it is not the same as when each sample was drawn alone.
    """
    count = len(loader.dataset)
    indices = sorted({round(step * (count - 1) / (_DRAWN - 1)) for step in range(_DRAWN)})
    trusted = getattr(loader.dataset, "random", None) is False and getattr(loader.dataset, "collate", None) is None
    with kept_generators():
        alone = [_fed(loader, model, [index], 0) for index in indices]
        for epoch in () if trusted else _EPOCHS:
            together = _fed(loader, model, indices, epoch)
            for position, index in enumerate(indices):
                _compare(together, alone[position], position, index, loader, model)
    return alone


def _fed(loader: Loader, model: ModelConfig, indices: list[int], epoch: int) -> dict[str, list[Tensor]]:
    """Return the tensors that the model's arguments hold, by address."""
    batch = loader.draw(indices, epoch)
    return {str(address): list(leaves(batch_reader(address)(batch))) for address in model.addresses}


def _compare(
    together: dict[str, list[Tensor]],
    alone: dict[str, list[Tensor]],
    position: int,
    index: int,
    loader: Loader,
    model: ModelConfig,
) -> None:
    rows = loader.rows_per_sample
    for address, tensors in together.items():
        for whole, own in zip(tensors, alone[address], strict=True):
            # What has no row for each sample is the same for all of them.
            by_row = own.dim() > 0 and len(own) == rows and whole.dim() > 0 and len(whole) > (position * rows)
            part = whole[position * rows : (position + 1) * rows] if by_row else whole
            if part.shape != own.shape:
                raise _uneven(address, part, own, index, loader, model)
            if not _equal(part, own):
                raise _random(address, index, loader, model)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.is_floating_point() or one.is_complex():
        return bool(torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True))
    return torch.equal(one, other)


def _uneven(address: str, part: Tensor, own: Tensor, index: int, loader: Loader, model: ModelConfig) -> DataError:
    return DataError(
        f"{model.name!r} cannot be cached on data {loader.config.name!r}: {address} of sample {index} has shape "
        f"{tuple(own.shape)} alone and {tuple(part.shape)} in a batch",
        place=_place(model.cache),
        repair="let the data set make all samples equally long, or write cache: false",
    )


def _random(address: str, index: int, loader: Loader, model: ModelConfig) -> DataError:
    return DataError(
        f"{model.name!r} cannot be cached on data {loader.config.name!r}: {address} of sample {index} is not the same "
        "each time it is drawn (random augmentation, or a collate that mixes samples), so the student would see "
        "another input than the one that the stored values belong to",
        place=_place(model.cache),
        repair="cache on a data entry without augmentation, or write cache: false",
    )


def _place(cache: CacheConfig | None) -> Place:
    return cache.place if cache is not None else Place()
