"""How the rows of one address become the bytes of a record, and tensors again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kdcore.engine.cache.quantizer import INT8, Quantizer, group_length
from kdcore.engine.cache.records import Bytes
from kdcore.errors import WiringError
from kdcore.pipeline.diagnosis import describe

AS_IS = "as_is"


@dataclass(frozen=True)
class Codec:
    """The layout of one address's records.

    Arguments:
        rows: rows of a batch per sample.
        shape: shape of one row.
        dtype: of the tensor that the model yields, and that a read gives back.
        stored: of the numbers in the file.
        top_k: how many of the last dimension are kept, 0 for all.
        group: how many values share a grid where numbers are quantised, 0 where they are not.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    stored: torch.dtype
    top_k: int = 0
    group: int = 0

    @classmethod
    def of(cls, value: Tensor, rows: int, dtype: str, top_k: int) -> Codec:
        """Return the layout for tensors such as `value`; only floating point numbers take another dtype."""
        classes = value.shape[-1] if value.dim() > 1 and value.is_floating_point() else 0
        if top_k and top_k >= classes:
            raise WiringError(
                f"top_k: {top_k} leaves nothing out of {describe(value)}",
                repair="remove top_k, or choose one below the number of classes",
            )
        shape, convert = tuple(value.shape[1:]), dtype != AS_IS and value.is_floating_point()
        stored: torch.dtype = getattr(torch, dtype) if convert else value.dtype
        group = (top_k or group_length(shape)) if convert and dtype == INT8 else 0
        if group and not Quantizer(value.dtype, group).saves_room:
            group, stored = 0, value.dtype
        return cls(rows, shape, value.dtype, stored, top_k, group)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Codec:
        """Read what `as_data` wrote."""
        rows, top_k, group = (int(data[key]) for key in ("rows", "top_k", "group"))
        dtype, stored = (getattr(torch, data[key]) for key in ("dtype", "stored"))
        return cls(rows, tuple(data["shape"]), dtype, stored, top_k, group)

    def as_data(self) -> dict[str, Any]:
        """Return the layout as JSON data."""
        names = {key: str(getattr(self, key)).removeprefix("torch.") for key in ("dtype", "stored")}
        return {**asdict(self), "shape": list(self.shape), **names}

    @cached_property
    def quantizer(self) -> Quantizer | None:
        """What makes the numbers those in the file, None where that is no more than another dtype."""
        return Quantizer(self.dtype, self.group) if self.group else None

    @property
    def size(self) -> int:
        """Bytes of one record."""
        return sum(length for length, _, _ in self._fields())

    def check(self, value: Tensor) -> None:
        """Raise WiringError if `value` cannot be stored, or too little of it would be left."""
        if self.quantizer is None or self.top_k:
            self.encode(value)
        else:
            self.quantizer.check(value)

    def encode(self, value: Tensor) -> Bytes:
        """Return the records of a batch as bytes, one line per sample."""
        value = value.detach()
        parts = self._top(value) if self.top_k else self._numbers(value)
        lines = [part.cpu().contiguous().reshape(len(value) // self.rows, -1).view(torch.uint8) for part in parts]
        encoded: Bytes = (lines[0] if len(lines) == 1 else torch.cat(lines, dim=1)).numpy()
        return encoded

    def decode(self, lines: Tensor) -> Tensor:
        """Return the batch that records stand for, wherever their bytes lie."""
        parts, start = [], 0
        for length, dtype, shape in self._fields():
            part = lines[:, start : start + length]
            if length < lines.shape[1]:
                # Not contiguous(): the only line counts as that where it lies, and wider numbers cannot begin anywhere.
                part = part.clone(memory_format=torch.contiguous_format)
            parts.append(part.view(dtype).reshape(len(lines) * self.rows, *shape))
            start += length
        return self._spread(parts) if self.top_k else self._tensor(parts, self.shape)

    def _fields(self) -> list[tuple[int, torch.dtype, tuple[int, ...]]]:
        """Return length in bytes, dtype and shape per row of what a record holds."""
        kept = (*self.shape[:-1], self.top_k) if self.top_k else self.shape
        fields: list[tuple[torch.dtype, tuple[int, ...]]] = [(self.stored, kept)]
        if self.group:
            groups = math.prod(kept) // self.group
            fields = [(self.dtype, (groups, 2)), (self.stored, (groups, self.group))]
        if self.top_k:
            fields += [(self._index_dtype, kept), (torch.float32, self.shape[:-1])]
        return [(self.rows * math.prod(shape) * dtype.itemsize, dtype, shape) for dtype, shape in fields]

    @property
    def _index_dtype(self) -> torch.dtype:
        return torch.int16 if self.shape[-1] <= torch.iinfo(torch.int16).max else torch.int32

    def _numbers(self, value: Tensor) -> list[Tensor]:
        if self.quantizer is not None:
            return list(self.quantizer.quantize(value))
        return [self._rounded(value)]

    def _tensor(self, numbers: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Return what `_numbers` took, whose rows have this shape."""
        if self.quantizer is not None:
            return self.quantizer.dequantize(*numbers).reshape(-1, *shape)
        return numbers[0].to(self.dtype)

    def _rounded(self, value: Tensor) -> Tensor:
        rounded = value.to(self.stored)
        if self.stored is torch.float16 and (rounded.isinf() & ~value.isinf()).any():
            raise WiringError(
                f"a value of {float(value.abs().max()):g} is too large for float16",
                repair="write dtype: bfloat16 or float32",
            )
        return rounded

    def _top(self, logits: Tensor) -> list[Tensor]:
        wide = logits.float()
        indices = wide.topk(self.top_k, dim=-1).indices
        rest = wide.scatter(-1, indices, -math.inf).logsumexp(dim=-1)
        return [*self._numbers(logits.gather(-1, indices)), indices.to(self._index_dtype), rest]

    def _spread(self, parts: list[Tensor]) -> Tensor:
        """Return dense logits: those kept as they were, the mass of the others in equal shares."""
        *numbers, indices, rest = parts
        values, classes = self._tensor(numbers, tuple(indices.shape[1:])), self.shape[-1]
        share = rest - math.log(classes - self.top_k)
        dense = share.to(self.dtype).unsqueeze(-1).repeat(*(1 for _ in share.shape), classes)
        return dense.scatter_(-1, indices.long(), values)
