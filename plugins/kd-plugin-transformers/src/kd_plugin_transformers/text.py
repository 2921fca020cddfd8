"""Blocks of tokens from local text files, for language models."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd_plugin_transformers.corpus import read_texts
from kd_plugin_transformers.tokens import Tokens
from kdcore.errors import DataError

IGNORED = -100


class HFText(Dataset[dict[str, Tensor]]):
    """Blocks of `block_size` tokens, with themselves as labels: models and the wrapper `causal` shift.

    A sample is `{"input_ids": int64 (T,), "attention_mask": int64 (T,), "labels": int64 (T,)}`. Blocks never cross
    files. The last block of a file may be shorter: beyond its end the mask is 0 and the labels are -100.

    Arguments:
        tokenizer: a local folder, `{"type": "bytes"}`, or `{"type": "bpe", "vocab_size": ...}`, which is learnt
            from the training split of the files, whatever `split` is.
        files: paths, folders or globs; by default the running Python's own standard library, top level only.
        split: `train`, `val`, `test`, or `all`.
        split_by: `file` gives whole files to a split, by a hash of their names: about 80, 10 and 10 of a hundred.
            `position` gives the first 80 % of every file to train, the next 10 % to val, the rest to test.
        block_size: T, 2 or more.
        limit: at most so many blocks, spread evenly over the text; by default all.

    Attributes:
        num_classes: one more than the tokenizer's largest id.
        rows_per_sample: rows of a batch per sample, 1.
        random: whether samples depend on random numbers, false.

    Raises DataError where a file or the tokenizer is missing, or the split has no text.
    """

    rows_per_sample = 1
    random = False

    def __init__(
        self,
        tokenizer: str | Mapping[str, Any],
        files: Sequence[str] | None = None,
        split: str = "train",
        split_by: str = "file",
        *,
        block_size: int = 128,
        limit: int | None = None,
    ) -> None:
        for name, least, size in (("block_size", 2, block_size), ("limit", 1, limit)):
            if size is not None and size < least:
                raise ValueError(f"{name} must be {least} or more, found {size}")
        tokens = Tokens.of(tokenizer, lambda: read_texts(files, "train", split_by))
        # A single token predicts nothing.
        encoded = [ids for ids in tokens.encode(read_texts(files, split, split_by)) if len(ids) > 1]
        if not encoded:
            raise DataError(f"the split {split!r} has no text of two tokens or more", repair="give longer files")
        self.num_classes = tokens.size
        self.block_size = block_size
        self.pad = tokens.pad
        self.ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int32)
        self._begins = [0, *accumulate(map(len, encoded))]
        # A block of one token, left over at the end of a file, would predict nothing either.
        counts = [len(ids) // block_size + (len(ids) % block_size > 1) for ids in encoded]
        self._first_blocks = [0, *accumulate(counts)]
        self._available = self._first_blocks[-1]
        self._kept = min(limit or self._available, self._available)

    def __len__(self) -> int:
        return self._kept

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        block = range(self._kept)[index] * self._available // self._kept
        text = bisect_right(self._first_blocks, block) - 1
        start = self._begins[text] + (block - self._first_blocks[text]) * self.block_size
        found = self.ids[start : min(start + self.block_size, self._begins[text + 1])]
        ids = torch.full((self.block_size,), self.pad)
        ids[: len(found)] = torch.from_numpy(found)
        mask = torch.arange(self.block_size) < len(found)
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.where(mask, IGNORED)}
