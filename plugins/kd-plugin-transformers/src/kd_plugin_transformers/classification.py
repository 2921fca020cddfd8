"""Tokenised texts and their classes from a local file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from kd_plugin_transformers.corpus import split_of
from kd_plugin_transformers.table import Row, read_rows
from kd_plugin_transformers.tokens import Tokens
from kdcore.errors import DataError, suggestion


class HFTextClassification(Dataset[dict[str, Tensor]]):
    """Texts with their class; a batch is as long as its longest text.

    A sample is `{"input_ids": int64 (n,), "attention_mask": int64 (n,), "labels": int64 ()}`; in a batch
    (B, T), (B, T) and (B,).

    Arguments:
        tokenizer: a local folder, `{"type": "bytes"}`, or `{"type": "bpe", "vocab_size": ...}`, which is learnt
            from the training split of the file, whatever `split` is.
        file: a .csv or .tsv file with a header, or a .jsonl file with an object per line.
        text: the column with the text.
        label: the column with the class.
        classes: the classes in the order of the model's outputs; by default all in the file, sorted.
        split: `train`, `val` and `test` choose rows by a hash of their text; `all`.
        max_length: tokens of a longer text are cut off.
        limit: at most so many rows, spread evenly over the file; by default all.

    Attributes:
        class_names: the classes in order.
        num_classes: how many there are.
        targets: the class of each sample.
        rows_per_sample: rows of a batch per sample, 1.
        random: whether samples depend on random numbers, false.

    Raises DataError where a file, a column or the tokenizer is missing, a class is unknown, or no row is left.
    """

    rows_per_sample = 1
    random = False

    def __init__(
        self,
        tokenizer: str | Mapping[str, Any],
        file: str,
        text: str = "text",
        label: str = "label",
        *,
        classes: Sequence[str | int] | None = None,
        split: str = "all",
        max_length: int = 128,
        limit: int | None = None,
    ) -> None:
        for name, size in (("max_length", max_length), ("limit", limit)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be 1 or more, found {size}")
        rows = read_rows(file, text, label)
        self.class_names = _sorted_classes(rows) if classes is None else [str(each) for each in classes]
        self.num_classes = len(self.class_names)
        _check_classes(rows, self.class_names, file)
        chosen = [row for row in rows if split in ("all", split_of(row[0]))]
        if not chosen:
            what = f"none of {len(rows)} rows of {file!r} is in the split {split!r}"
            raise DataError(what, repair="give more rows, or a file for each split and split: all")
        count = min(limit or len(chosen), len(chosen))
        kept = [chosen[index * len(chosen) // count] for index in range(count)]
        learnt_from = [content for content, _ in rows if split_of(content) == "train"] or [row[0] for row in rows]
        tokens = Tokens.of(tokenizer, lambda: learnt_from)
        places = {name: index for index, name in enumerate(self.class_names)}
        self.targets = [places[name] for _, name in kept]
        self.pad = tokens.pad
        encoded = tokens.encode_whole([content for content, _ in kept])
        self._ids = [torch.tensor(ids[:max_length] or [tokens.pad], dtype=torch.int32) for ids in encoded]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self._ids[index].long()
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(self.targets[index])}

    def collate(self, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return a batch; shorter texts are filled up, and their mask is 0 there."""
        ids, masks = ([each[key] for each in samples] for key in ("input_ids", "attention_mask"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad),
            "attention_mask": pad_sequence(masks, batch_first=True),
            "labels": torch.stack([each["labels"] for each in samples]),
        }


def _sorted_classes(rows: Sequence[Row]) -> list[str]:
    names = {name for _, name in rows}
    numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=int) if numbers else sorted(names)


def _check_classes(rows: Sequence[Row], classes: Sequence[str], file: str) -> None:
    if len(classes) < 2:
        raise DataError(f"{file!r} has one class only, {classes[0]!r}", repair="is label: the column that you mean?")
    known = set(classes)
    for _, name in rows:
        if name not in known:
            what = f"{file!r} has the class {name!r}, which is not among classes:"
            raise DataError(what, repair=suggestion(name, classes, noun="classes"))
