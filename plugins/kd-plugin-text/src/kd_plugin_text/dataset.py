"""Blocks of bytes from text files, for language models that need no tokenizer."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from kd_plugin_text.corpus import Corpus

IGNORED = -100


class TextBytes(Dataset[dict[str, Tensor]]):
    """Blocks of `length` bytes and, as their targets, the bytes that follow.

    A sample is `{"input": int64 (T,), "target": int64 (T,), "mask": bool (T,)}`. The last block of a file may
    be shorter: there input is 0, target -100 and mask false beyond the text's end.

    Arguments:
        files: paths or globs (`**` too); by default the running Python's own standard library, the `.py`
            files at its top level, in the order of their names. Empty files that a glob finds are left out.
        split: `train`, `val` or `test`.
        split_by: `file` gives whole files to a split, by a hash of their names: about 80, 10 and 10 of a
            hundred. `position` gives the first 80 % of every file to train, the next 10 % to val, the rest
            to test.
        length: T, 1 or more.
        stride: bytes between the beginnings of two blocks, 1 or more; by default `length`.
        limit: at most so many blocks, spread evenly over the text; by default all.

    Attributes:
        num_classes: 256.
        rows_per_sample: rows of a batch per sample, 1.
        random: whether samples depend on random numbers, false.

    Raises DataError where a file is missing or empty, or the split has no text.
    """

    num_classes = 256
    rows_per_sample = 1
    random = False

    def __init__(
        self,
        files: list[str] | None = None,
        split: str = "train",
        split_by: str = "file",
        *,
        length: int = 64,
        stride: int | None = None,
        limit: int | None = None,
    ) -> None:
        for name, size in (("length", length), ("stride", stride), ("limit", limit)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        corpus = Corpus.read(files, split, split_by)
        self.text = np.frombuffer(corpus.text, dtype=np.uint8)
        self.length = length
        self.stride = stride or length
        self._begins = [0, *corpus.ends]
        self._first_blocks = [0, *accumulate(map(self._count_blocks, pairwise(self._begins)))]
        self._available = self._first_blocks[-1]
        self._kept = min(limit or self._available, self._available)

    def __len__(self) -> int:
        return self._kept

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start, count = self._locate(range(self._kept)[index])
        # Two copies, so that a transform may change one in place; numpy makes them faster than torch.
        input = torch.from_numpy(self.text[start : start + count].astype(np.int64))
        target = torch.from_numpy(self.text[start + 1 : start + count + 1].astype(np.int64))
        if count == self.length:
            return {"input": input, "target": target, "mask": torch.ones(count, dtype=torch.bool)}
        missing = (0, self.length - count)
        mask = torch.arange(self.length) < count
        return {"input": F.pad(input, missing), "target": F.pad(target, missing, value=IGNORED), "mask": mask}

    def _count_blocks(self, piece: tuple[int, int]) -> int:
        pairs = piece[1] - piece[0] - 1  # a byte is predicted from the one before it
        # No block starts beyond the text, and none follows the one that reaches its end: it would hold nothing new.
        return min(ceil(pairs / self.stride), 1 + max(0, ceil((pairs - self.length) / self.stride)))

    def _locate(self, index: int) -> tuple[int, int]:
        """Return where a block starts and how many bytes it predicts; computed, for no table is as small."""
        block = index * self._available // self._kept
        piece = bisect_right(self._first_blocks, block) - 1
        start = self._begins[piece] + (block - self._first_blocks[piece]) * self.stride
        return start, min(self.length, self._begins[piece + 1] - 1 - start)
